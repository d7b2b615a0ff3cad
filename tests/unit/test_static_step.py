"""Recorded steps give what reading does: whatever is forked, dropped, cut back, grown, or alive at once."""

import random
from collections.abc import Callable

import pytest
import torch

import tape
from identities import PROMPTS, SAMPLING, SEED
from tiny import gpt2, language_model, llama
from trimtab.models.emulated import emulate
from trimtab.models.static_step import MIN_COLUMNS, Record, StaticSteps, Step, bucket
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from twins import BUDGET, TEXTS, Twins, pair, random_calls


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("seed", range(4))
def test_random_sequences_of_calls_give_what_reading_gives(make: Callable[[int], torch.nn.Module], seed: int) -> None:
    random_calls(pair(make, tape.record), seed)


def counted(record: Record) -> tuple[Record, list[int]]:
    """The same, and the number of replays of each recording."""
    replays: list[int] = []

    def counting(step: Step) -> Step:
        run, place = record(step), len(replays)
        replays.append(0)

        def replay() -> torch.Tensor:
            replays[place] += 1
            return run()

        return replay

    return counting, replays


def test_a_state_grows_past_its_room_into_larger_buffers() -> None:
    record, replays = counted(tape.record)
    twins = Twins.start(pair(llama, record), room=1)
    for _ in range(3 * MIN_COLUMNS):
        twins.step(random.Random(1))
    assert len(replays) > 1 and sum(replays) == 3 * MIN_COLUMNS


def test_states_that_want_the_same_buffers_take_turns() -> None:
    record, replays = counted(tape.record)
    models = pair(llama, record)
    first, second, chance = Twins.start(models), Twins.start(models), random.Random(2)
    for _ in range(4):
        first.step(chance)
        second.step(chance)
    assert replays == [8]


def test_a_fork_is_copied_right_into_buffers_that_are_free() -> None:
    _, model = pair(llama, tape.record)
    parent = model.start(TEXTS, 8)
    model.next_logits(parent)
    parent.append([5, 6, 7])
    other = parent.select([0, 0, 1, 2, 2])
    model.next_logits(other)
    other.append([1, 2, 3, 4, 5])
    buffers = next(layer.keys for layer in parent.cache.slots)
    del parent
    back = other.select([4, 2, 0])
    assert back.cache.slots[0].keys.data_ptr() == buffers.data_ptr()
    assert other.select([0, 1, 2]).cache.slots[0].keys.data_ptr() != buffers.data_ptr()  # `back` lives there now


def test_rows_beside_not_a_number_stay_what_they_are() -> None:
    plain, recorded = pair(llama, tape.record)
    for model in (plain, recorded):
        spoiled = model.start(TEXTS, 8)
        model.next_logits(spoiled)
        with torch.inference_mode():
            for layer in spoiled.cache.slots:
                layer.keys[1] = layer.values[1] = torch.nan
    del spoiled
    twins = Twins.start((plain, recorded))
    for _ in range(3):
        twins.step(random.Random(3))


def test_buffers_stay_within_their_budget() -> None:
    record, replays = counted(tape.record)
    _, model = pair(llama, record)
    state = model.start(TEXTS, 8)
    model.next_logits(state)
    one = state.cache.bytes_of(bucket(3), state.cache.capacity)
    plain, model = pair(llama, record, budget=2 * one)
    replays.clear()
    sizes = [3, 2, 1, 3, 2, 6, 3, 12]
    for size in sizes:
        twins = Twins((plain, model), [each.start(TEXTS, 8) for each in (plain, model)])
        twins.select([row % 3 for row in range(size)]).step(random.Random(size))
        steps = model._static
        assert isinstance(steps, StaticSteps)
        assert steps._bytes <= 2 * one
    assert sum(replays) == len(sizes) - 1  # 12 rows are too many, and read without
    assert len(replays) > len(set(sizes)) - 1  # what was given up is recorded again


def test_a_model_that_cannot_be_recorded_reads_without(caplog: pytest.LogCaptureFixture) -> None:
    def asks_the_host(module: torch.nn.Module, given: object, hidden: torch.Tensor) -> None:
        float(hidden.sum())

    plain, recorded = pair(llama, tape.record)
    for model in (plain, recorded):
        model.model.model.layers[0].register_forward_hook(asks_the_host)
    twins = Twins.start((plain, recorded))
    for _ in range(3):
        twins.step(random.Random(4))
    assert len(caplog.records) == 1 and "not recorded" in caplog.text


def test_one_token_prompts_begin_without_a_recorded_step() -> None:
    models = pair(llama, tape.record)
    twins = Twins(models, [model.start_ids([[5], [6]], 8) for model in models])
    for _ in range(3):
        twins.step(random.Random(5))


@pytest.mark.parametrize("search", [Search(2, 2, 3, 12), Search(successors=4, max_new_tokens=12), Search(2, 2, 3, 40)])
def test_the_search_finds_the_same(search: Search) -> None:
    found = []
    for recorded in (False, True):
        base, tuned, untuned = language_model(0, ends=range(40, 52)), language_model(1), language_model(2)
        for model in (base, tuned, untuned):
            if recorded:
                model.record_steps(tape.record, BUDGET)
        proposer = LanguageModelProposer(emulate(base, [(tuned, untuned, 0.5)]), SAMPLING, SEED)
        groups = search.run(PROMPTS, proposer, ImplicitValue(tuned, untuned, base))
        found.append([[(each.token_ids, pytest.approx(each.value, abs=1e-9)) for each in group] for group in groups])
    assert found[0] == found[1]


def test_steps_are_recorded_on_cuda_alone() -> None:
    assert language_model(0)._static is None


def test_buckets_waste_at_most_half() -> None:
    for count in range(1, 3000):
        assert count <= bucket(count) < 1.5 * count + 1
        assert bucket(bucket(count)) == bucket(count)


def test_a_recording_holds_what_python_computed() -> None:
    """The stand-in for a graph would show a length that the host baked into it."""
    given, length = torch.zeros(3), [1]
    replay = tape.record(lambda: given[: length[0]] + 1)
    given.fill_(5.0)
    length[0] = 3
    assert replay().tolist() == [6.0]
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode, pytest.raises(tape.Unrecordable):
            tape.record(lambda: given * float(given.sum()))


def test_prompts_of_a_search_may_be_alone() -> None:
    _, model = pair(llama, tape.record)
    found = Search(2, 2, 3, 9).run([Prompt("a", "I")], LanguageModelProposer(model, SAMPLING, SEED), None)
    plain, _ = pair(llama, tape.record)
    expected = Search(2, 2, 3, 9).run([Prompt("a", "I")], LanguageModelProposer(plain, SAMPLING, SEED), None)
    assert [each.token_ids for each in found[0]] == [each.token_ids for each in expected[0]]
