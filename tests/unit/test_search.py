"""The one search equals its naive reference, its settings are what they say, the original's faults are absent."""

import itertools

import pytest

from identities import (
    ENDS,
    PROMPTS,
    SAMPLING,
    SEED,
    check_beam_search_equals_reference,
    check_end_counts_only_where_sampled,
    check_values_are_rescored_and_in_order,
    log_ratio,
    sample,
    searched,
)
from tiny import language_model
from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError
from trimtab.records import Prompt
from trimtab.rewards.function import FunctionReward
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue, RewardValue

CBS = Search(width=3, successors=2, chunk=4, max_new_tokens=14)
BEST_OF = Search(successors=6, max_new_tokens=12, keep=6)


@pytest.mark.parametrize(
    "search", [CBS, Search(2, 3, 1, 5), Search(1, 4, 5, 10), Search(successors=5, max_new_tokens=9)]
)
def test_batched_cached_search_equals_the_naive_reference(search: Search) -> None:
    check_beam_search_equals_reference(search)


def test_best_of_n_is_sampling_n_and_taking_the_best() -> None:
    found, base, tuned, untuned = searched(BEST_OF)
    for prompt, hypotheses in zip(PROMPTS, found, strict=True):
        samples = [sample(base, prompt, slot, [], BEST_OF.max_new_tokens) for slot in range(6)]
        assert sorted(each.token_ids for each in hypotheses) == sorted(samples)
        assert hypotheses[0].token_ids == max(samples, key=lambda ids: log_ratio(tuned, untuned, prompt, ids))


def test_one_candidate_is_plain_sampling() -> None:
    base = language_model(0, ends=ENDS)
    found = Search(max_new_tokens=12).run(PROMPTS, LanguageModelProposer(base, SAMPLING, SEED), None)
    assert [each.token_ids for (each,) in found] == [sample(base, prompt, 0, [], 12) for prompt in PROMPTS]


@pytest.mark.parametrize("search", [CBS, BEST_OF])
@pytest.mark.parametrize("same_vocabulary", [True, False])
def test_values_are_those_of_the_returned_texts_best_first(search: Search, same_vocabulary: bool) -> None:
    """Fault of the original: returned scores are not put in the order of the returned texts."""
    check_values_are_rescored_and_in_order(search, same_vocabulary=same_vocabulary)


def test_an_end_that_was_not_sampled_does_not_count() -> None:
    """Fault of the original: a beam cut by length is scored as if it had ended with an end token."""
    check_end_counts_only_where_sampled(BEST_OF)


def test_a_prompt_decodes_alike_alone_and_in_a_batch_in_any_order() -> None:
    together, *_ = searched(CBS)
    backwards, *_ = searched(CBS, prompts=PROMPTS[::-1])
    alone = [searched(CBS, prompts=[prompt])[0][0] for prompt in PROMPTS]
    ids = [[each.token_ids for each in group] for group in together]
    assert ids == [[each.token_ids for each in group] for group in backwards[::-1]]
    assert ids == [[each.token_ids for each in group] for group in alone]


def test_a_finished_beam_holds_one_slot_and_competes() -> None:
    """Fault of the original: a finished beam is copied once for each successor, and its copies crowd out others."""
    base = language_model(0, ends=range(40, 90))
    value = RewardValue(FunctionReward(lambda texts: [-float(len(text)) for text in texts]))
    steps = list(Search(3, 3, 2, 12).steps(PROMPTS, LanguageModelProposer(base, SAMPLING, SEED), value))
    finished_early = 0
    for before, after in itertools.pairwise(steps):
        for kept, candidates in zip(before.kept, after.candidates, strict=True):
            for beam in kept:
                if not beam.open:
                    finished_early += 1
                    assert sum(each is beam for each in candidates) == 1
    assert finished_early
    assert all(len({id(each) for each in group}) == len(group) for step in steps for group in step.candidates)


def test_a_stop_string_ends_a_response_within_its_token_limit() -> None:
    """Fault of the original: stop strings make it forget the token limit and revive beams that had ended."""
    base = language_model(0, ends=ENDS)
    proposer = LanguageModelProposer(base, SAMPLING, SEED, stop=["s", "m "])
    found = Search(width=8, successors=1, chunk=2, max_new_tokens=14).run(PROMPTS, proposer, None)
    finishes = {each.finish for group in found for each in group}
    assert finishes == {"eos", "length", "stop"}
    for group, prompt in zip(found, PROMPTS, strict=True):
        for each in group:
            whole = base.vocabulary.decode_response(
                base.vocabulary.encode_prompt(prompt.text, "{prompt}"), each.token_ids
            )
            assert len(each.token_ids) <= 14
            assert ("s" in whole or "m " in whole) == (each.finish == "stop")
            assert "s" not in each.text and "m " not in each.text and whole.startswith(each.text)


def test_temperature_zero_is_greedy() -> None:
    """Fault of the original: temperature 0 means 1."""
    base = language_model(0)
    (group,) = Search(max_new_tokens=5).run(
        PROMPTS[:1], LanguageModelProposer(base, SamplingConfig(temperature=0), 0), None
    )
    state = base.start(["I really"], room=5)
    for token in group[0].token_ids:
        assert int(base.next_logits(state)[0].argmax()) == token
        state.append([token])


def test_a_reward_can_guide() -> None:
    base = language_model(0, ends=ENDS)
    value = RewardValue(FunctionReward(lambda texts: [float(text.count("a")) for text in texts]))
    (found,) = Search(4, 4, 3, 12).run([Prompt("p", "A")], LanguageModelProposer(base, SAMPLING, SEED), value)
    (plain,) = Search(successors=16, max_new_tokens=12, keep=16).run(
        [Prompt("p", "A")], LanguageModelProposer(base, SAMPLING, SEED), None
    )
    assert found[0].value == ("A" + found[0].text).count("a")
    assert found[0].value > sum(each.text.count("a") for each in plain) / 16


def test_each_token_is_read_once() -> None:
    """Cost: scored tokens grow linearly with length; siblings share the reading of their parent's last token."""
    base, tuned, untuned = language_model(0), language_model(1), language_model(2)
    prompt, length = PROMPTS[3], 20
    proposer = LanguageModelProposer(base, SAMPLING, SEED, ignore_eos=True)
    value = ImplicitValue(tuned, untuned, base)
    Search(4, 4, 5, length).run([prompt], proposer, value)
    read = len(base.vocabulary.encode_prompt(prompt.text, "{prompt}"))
    chunks = length // 5
    # the first chunk forks the prompt's last token, later ones the last token of each of 4 beams; then 16 rows read 4
    expected = (read - 1) + 1 + (chunks - 1) * 4 + chunks * 16 * 4
    assert base.tokens_read == tuned.tokens_read == untuned.tokens_read == expected


@pytest.mark.parametrize("name", ["width", "successors", "chunk", "max_new_tokens", "keep", "groups", "pool"])
@pytest.mark.parametrize("count", [0, -1])
def test_counts_of_a_search_are_at_least_one(name: str, count: int) -> None:
    """`chunk=0` was once taken for no chunk, and `keep=0` for the width."""
    with pytest.raises(ConfigurationError, match=f"{name} is {count}: give a whole number of at least 1"):
        Search(**{"width": 2, "successors": 2, "chunk": 3, name: count})
