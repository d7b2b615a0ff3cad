"""The engine answers as `guided.generate` does, whatever runs beside a request; and its limits, ends and faults."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from served import DECODERS, SAMPLINGS, Answer, expected, guided, random_request, tiny_parts
from tiny import full_log_probabilities
from trimtab.errors import ConfigurationError, DataError, ModelError, RunError, TrimtabError
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.serve import engine_schedule
from trimtab.serve.engine import Engine
from trimtab.serve.engine_choice import Choice
from trimtab.serve.engine_parts import DecoderParts, RoleParts
from trimtab.serve.engine_step import draw_tokens
from trimtab.serve.requests import (
    CancelledError,
    ContextLengthError,
    GenerationRequest,
    Limits,
    QueueFullError,
    ShutdownError,
    TextPiece,
    TooManyRowsError,
)
from trimtab.serve.row_pool import RowPool

EXACT = 1e-9
BON_OVER_TUNED = DECODERS["bon"].model_copy(update={"model": "tuned"})


@pytest.fixture(scope="module")
def parts() -> RoleParts:
    return tiny_parts()


@pytest.fixture
def engine(parts: RoleParts) -> Iterator[Engine]:
    engine = Engine(parts)
    yield engine
    engine.close()


def request(name: str = "cbs", **settings: Any) -> GenerationRequest:
    given = {"id": name, "prompt": "I really", "sampling": SAMPLINGS[0], "max_new_tokens": 14, **settings}
    return GenerationRequest(decoder=DECODERS[name], **given)


def check_equal(request: GenerationRequest, answer: Answer, own: DecoderParts) -> None:
    assert answer.error is None, request
    hypotheses = expected(request, own)
    assert answer.usage is not None
    assert answer.usage.returned == sum(len(one.token_ids) for one in hypotheses) <= answer.usage.drawn
    for index, one in enumerate(hypotheses):
        assert answer.texts.get(index, "") == one.text, request
        assert [token.id for token in answer.tokens[index]] == one.token_ids
        assert answer.ends[index].finish == ("length" if one.finish == "length" else "stop")
        if request.decoder.guided:
            assert answer.ends[index].value is not None and abs(answer.ends[index].value - one.value) < EXACT
        if request.logprobs is not None:
            logs = [token.log_probability for token in answer.tokens[index]]
            (log,) = sequence_log_probabilities(own.model, [request.prompt], [one.token_ids])
            assert abs(sum(logs) - log) < 1e-6


# -------------------------------------------------------------------------------------------------------------- equal


@pytest.mark.parametrize(("count", "limits"), [(200, Limits()), (40, Limits(rows=24, slice_tokens=7))])
def test_many_requests_at_once_are_answered_as_each_alone(parts: RoleParts, count: int, limits: Limits) -> None:
    """To the token, in float64, whatever decoders, seeds, stops, lengths and numbers of choices they have."""
    chance = random.Random(count)
    requests = [random_request(chance, number) for number in range(count)]
    engine = Engine(parts, limits)
    handles = [engine.submit(request) for request in requests]
    answers = [Answer.of(handle) for handle in handles]
    engine.close()
    for request, answer in zip(requests, answers, strict=True):
        check_equal(request, answer, parts(request.decoder))


def test_requests_wait_where_their_rows_would_exceed_the_limit(
    parts: RoleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as many run as there is room for."""
    drawn = rows_of_steps(monkeypatch)
    candidates = DECODERS["cbs"].width * DECODERS["cbs"].successors
    engine = Engine(parts, Limits(rows=3 * candidates - 1))
    handles = [engine.submit(request("cbs", id=str(seed), seed=seed)) for seed in range(8)]
    assert all(Answer.of(handle).error is None for handle in handles)
    engine.close()
    assert max(drawn) == (2 * candidates, 2 * candidates)


def rows_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """After each step: the rows of a pool, and those that belong to a choice which runs."""
    seen: list[tuple[int, int]] = []

    def noting(pool: RowPool, choices: Sequence[Choice]) -> None:
        draw_tokens(pool, choices)
        seen.append((len(pool), sum(len(choice.rows or ()) for choice in choices)))

    monkeypatch.setattr(engine_schedule, "draw_tokens", noting)
    return seen


def test_rows_of_requests_that_end_early_leave_the_pool(parts: RoleParts, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = rows_of_steps(monkeypatch)
    engine = Engine(parts)
    handles = [engine.submit(request("cbs", id=str(seed), seed=seed, max_new_tokens=60)) for seed in range(6)]
    while len(steps) < 8:
        time.sleep(0.01)
    for handle in handles[:2]:
        handle.cancel()
    errors = [Answer.of(handle).error for handle in handles]
    engine.close()
    assert [isinstance(error, CancelledError) for error in errors] == [True, True, *[False] * 4]
    assert all(standing == owned for standing, owned in steps)


def test_requests_that_come_one_by_one_join_those_that_run(parts: RoleParts, engine: Engine) -> None:
    """Each is sent by a thread of its own, in the middle of others' chunks; and it is the text of `generate`."""
    chance, answers = random.Random(5), dict[int, Answer]()
    requests = [replace(random_request(chance, number), prompt="I really") for number in range(24)]

    def ask(number: int) -> None:
        answers[number] = Answer.of(engine.submit(requests[number]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
        time.sleep(chance.random() * 0.02)
    for thread in threads:
        thread.join()
    for number, one in enumerate(requests):
        check_equal(one, answers[number], parts(one.decoder))
    text = guided(requests[0], parts(requests[0].decoder)).generate("I really")
    assert answers[0].texts.get(0, "") == text


@pytest.mark.parametrize("name", ["base", "cbs", "pool", "eft"])
@pytest.mark.parametrize("stop", [(), ("e", "the worst")])
def test_a_stream_comes_in_pieces_that_are_never_taken_back(
    engine: Engine, parts: RoleParts, name: str, stop: tuple[str, ...]
) -> None:
    one = request(name, stream=True, stop=stop, max_new_tokens=40)
    answer, whole = Answer.of(engine.submit(one)), Answer.of(engine.submit(replace(one, stream=False)))
    assert "".join(answer.pieces[0]) == whole.texts[0] == expected(one, parts(one.decoder))[0].text
    assert list(filter(None, answer.pieces[0])) == list(guided(one, parts(one.decoder)).stream("I really"))
    assert len(whole.pieces[0]) == 1


def test_conversations_and_equal_prompts_as_in_python(engine: Engine, parts: RoleParts) -> None:
    """Choice i is response i to equal prompts; ids are read as they are."""
    many = Answer.of(engine.submit(request("base", n=3)))
    assert len({many.texts[index] for index in range(3)}) == 3
    model = parts(DECODERS["base"]).model
    ids = tuple(model.vocabulary.encode_prompt("I really", model.template))
    greedy = request("base", sampling=SAMPLINGS[-1])
    assert Answer.of(engine.submit(replace(greedy, prompt=ids))).texts == Answer.of(engine.submit(greedy)).texts, (
        "greedy decoding draws no random numbers"
    )
    with pytest.raises(ModelError, match="chat template"):
        engine.submit(request(prompt=[{"role": "user", "content": "Hello"}]))
    with pytest.raises(DataError, match="the prompt is 5 and must be a text"):
        engine.submit(request(prompt=5))
    assert [token.text for token in engine.tokenize("I really", DECODERS["base"])] == ["I", " re", "al", "ly"]


def test_stop_tokens_and_stop_strings_are_named(engine: Engine, parts: RoleParts) -> None:
    free = Answer.of(engine.submit(request("base", max_new_tokens=40)))
    third = free.tokens[0][2]
    by_token = Answer.of(engine.submit(request("base", max_new_tokens=40, stop_token_ids=(third.id,))))
    assert by_token.ends[0].stop == third.id and by_token.ends[0].finish == "stop"
    assert [token.id for token in by_token.tokens[0]] == [token.id for token in free.tokens[0][:3]]
    assert third.text not in by_token.texts[0][-len(third.text) :] or third.text == ""
    letter = free.texts[0][3]
    by_text = Answer.of(engine.submit(request("base", max_new_tokens=40, stop=("never", letter))))
    assert by_text.ends[0].stop == letter and by_text.texts[0] == free.texts[0].partition(letter)[0]
    assert free.ends[0].stop is None


# -------------------------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("name", ["base", "tuned", "eft"])
def test_log_probabilities_and_echo_are_those_of_one_pass(engine: Engine, parts: RoleParts, name: str) -> None:
    one = request(name, logprobs=3, echo=True, max_new_tokens=6, prompt="This was the worst film")
    answer, model = Answer.of(engine.submit(one)), parts(one.decoder).model
    ids = [token.id for token in answer.prompt[0].tokens]
    assert answer.prompt[0].text == one.prompt and ids == model.vocabulary.encode_prompt(one.prompt, "{prompt}")
    tokens = [*answer.prompt[0].tokens, *answer.tokens[0]]
    assert tokens[0].log_probability is None
    logits = torch.cat(list(model.logits_along([token.id for token in tokens], 1000))).double()
    logs = torch.log_softmax(logits, -1)
    for place, token in enumerate(tokens[1:]):
        assert abs(token.log_probability - float(logs[place, token.id])) < EXACT
        assert [top for top, _, _ in token.top] == logs[place].topk(3).indices.tolist()
    if name != "eft":
        exact = full_log_probabilities(model.model, ids, [token.id for token in answer.tokens[0]])
        assert [token.log_probability for token in answer.tokens[0]] == pytest.approx(exact, abs=EXACT)


def test_an_echo_alone_draws_nothing(engine: Engine) -> None:
    """As likelihood tasks ask: the prompt's log-probabilities, long prompts in slices; ids are scored as they are."""
    alone = Answer.of(engine.submit(request("base", echo=True, logprobs=1, max_new_tokens=0, prompt=tuple([5] * 90))))
    assert len(alone.prompt[0].tokens) == 90 and alone.ends[0].finish == "length" and not alone.texts
    assert alone.usage is not None and alone.usage.drawn == 0
    with pytest.raises(ConfigurationError, match="max_new_tokens is 0: give a whole number at least 1"):
        engine.submit(request("base", max_new_tokens=0))


def test_a_trace_shows_each_candidate_and_why_it_was_dropped(engine: Engine, parts: RoleParts) -> None:
    one = request("cbs", trace=True)
    answer = Answer.of(engine.submit(one))
    assert [step.number for step in answer.steps] == list(range(len(answer.steps)))
    assert len(answer.steps[0].candidates) == 6
    before: dict[int | None, str] = {0: ""}
    for step in answer.steps:
        values = [each.value for each in step.candidates]
        assert values == sorted(values, reverse=True)
        assert all((each.kept is None) == bool(each.dropped) for each in step.candidates)
        assert all(each.text.startswith(before[each.parent]) for each in step.candidates)
        before = {each.kept: each.text for each in step.candidates if each.kept is not None}
    assert before[0] == answer.texts[0]


# ------------------------------------------------------------------------------------------------- limits and endings


def test_refusals_name_the_limit(parts: RoleParts) -> None:
    blocked, gate = Engine(parts, Limits(rows=8, queue=2, request_rows=12, context=60)), threading.Event()
    with pytest.raises(TooManyRowsError, match="is 18 rows, and a request may have 8"):
        blocked.submit(request(n=3))
    with pytest.raises(ContextLengthError, match="a prompt of 4 tokens and 57 new ones exceed the context of 60"):
        blocked.submit(request(max_new_tokens=57))
    with pytest.raises(ConfigurationError, match="n_best has no meaning for a single request"):
        blocked.submit(replace(request(), decoder=DECODERS["bon"].model_copy(update={"n_best": 2})))
    for settings, message in (
        ({"n": 0}, "n is 0: give a whole number at least 1"),
        ({"seed": -1}, "seed is -1: give a whole number from 0 to"),
        ({"stop": ("",)}, "stop holds an empty text"),
        ({"stop_token_ids": (400,)}, "stop_token_ids holds 400, which is no token"),
        ({"prompt": ()}, "the prompt has no token ids"),
        ({"prompt": (5, 321)}, "321"),
        ({"logprobs": -1}, "logprobs is -1"),
    ):
        with pytest.raises(TrimtabError, match=message):
            blocked.submit(request("base", **settings))
    assert blocked.counters().refusals == {"too_many_rows": 1, "context_length_exceeded": 1}
    # while the engine's thread is held up, two requests wait and the third is refused
    own = parts(DECODERS["base"])
    blocked._parts = lambda decoder: own  # type: ignore[method-assign]
    held = threading.Thread(target=lambda: blocked.between_steps(gate.wait))
    held.start()
    handles = [blocked.submit(request("base")), blocked.submit(request("base"))]
    with pytest.raises(QueueFullError, match=r"2 requests wait already: ask again in \d+ seconds") as refusal:
        blocked.submit(request("base"))
    assert refusal.value.retry_after >= 1
    gate.set()
    assert all(Answer.of(handle).error is None for handle in handles)
    held.join()
    blocked.close()
    with pytest.raises(ShutdownError, match="shutting down"):
        blocked.submit(request("base"))


def test_a_cancelled_request_frees_its_rows_and_the_others_go_on(parts: RoleParts) -> None:
    engine = Engine(parts, Limits(rows=12))
    long, other = engine.submit(request(max_new_tokens=200, n=2, stream=True)), request("base", max_new_tokens=30)
    waits = engine.submit(replace(other, id="waits"))
    events = iter(long)
    assert isinstance(next(events), TextPiece)
    long.cancel()
    *_, last = events
    assert isinstance(last.error, CancelledError)
    check_equal(other, Answer.of(waits), parts(other.decoder))
    engine.close(drain_seconds=60)
    counters = engine.counters()
    assert counters.rows == counters.running == counters.queued == 0
    assert counters.requests == {("cbs-3-2-2", "cancelled"): 1, ("base", "answered"): 1}


def test_close_lets_requests_end_or_ends_them(parts: RoleParts) -> None:
    engine = Engine(parts)
    one = request()
    handle = engine.submit(one)
    engine.close(drain_seconds=60)
    check_equal(one, Answer.of(handle), parts(one.decoder))
    engine = Engine(parts)
    handle = engine.submit(request(max_new_tokens=200))
    engine.close()
    assert isinstance(Answer.of(handle).error, ShutdownError)


def test_from_asyncio_events_come_as_they_are_made(engine: Engine, parts: RoleParts) -> None:
    requests = [request(name, stream=True) for name in ("base", "cbs", "bon")]

    async def ask(one: GenerationRequest) -> Answer:
        handle = await asyncio.to_thread(engine.submit, one)
        return Answer.of([event async for event in handle])

    async def ask_all() -> list[Answer]:
        return await asyncio.gather(*map(ask, requests))

    for one, answer in zip(requests, asyncio.run(ask_all()), strict=True):
        check_equal(one, answer, parts(one.decoder))


def test_costs_are_counted_and_nothing_is_lost_or_counted_twice() -> None:
    """What all requests have cost is what the models have done."""
    parts = tiny_parts()
    engine, models = Engine(parts), [parts._roles[role] for role in ("large", "tuned", "untuned")]
    names = ("base", "bon", "cbs", "eft", "tuned", "cbs over eft")
    requests = [request(name, n=2, logprobs=1 if name == "cbs" else None) for name in names]
    requests.append(replace(request("tuned", n=2), decoder=BON_OVER_TUNED))
    handles = [engine.submit(one) for one in requests]
    usages = {name: Answer.of(handle).usage for name, handle in zip([*names, "bon of it"], handles, strict=True)}
    assert sum(usage.flops for usage in usages.values()) == pytest.approx(sum(model.flops for model in models))
    assert usages["base"].guide == usages["eft"].guide == 0 < usages["bon"].guide
    assert usages["base"].drawn == usages["base"].returned and usages["cbs"].drawn > usages["cbs"].returned
    counters = engine.counters()
    assert counters.drawn["cbs-3-2-2"] == usages["cbs"].drawn
    assert counters.returned["base"] == usages["base"].returned
    assert counters.steps > 0 and counters.step_seconds > 0
    # guides read as much of a prompt and a first token wherever they judge, also where they are what is sampled
    bon = request("bon", max_new_tokens=1)
    decoders = bon.decoder, BON_OVER_TUNED, bon.decoder.model_copy(update={"beta": 0.5})
    assert len({Answer.of(engine.submit(replace(bon, decoder=one))).usage.guide for one in decoders}) == 1
    # two choices are judged together: the guides have read the prompt once, and each choice once
    one, two = (Answer.of(engine.submit(request("bon", n=n, max_new_tokens=4))).usage for n in (1, 2))
    assert abs(two.drawn - 2 * one.drawn) <= 2 and one.guide < two.guide < 2 * one.guide
    engine.close()


def test_a_long_prompt_is_read_in_slices_while_others_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_parts()
    read, large = list[int](), parts._roles["large"]
    reading = large._read

    def noted(state: Any, feeds: Any) -> Any:
        read.append(max(map(len, feeds), default=0))
        return reading(state, feeds)

    monkeypatch.setattr(large, "_read", noted)
    engine = Engine(parts, Limits(slice_tokens=16))
    running = engine.submit(
        request("base", max_new_tokens=100, ignore=()) if False else request("base", max_new_tokens=60)
    )
    long = request("base", prompt=" a" * 150, max_new_tokens=3)
    handle = engine.submit(long)
    check_equal(long, Answer.of(handle), parts(long.decoder))
    Answer.of(running)
    engine.close()
    slices = [index for index, count in enumerate(read[: read.index(16) + 40]) if count == 16]
    assert max(read[: slices[-1]]) == 16
    assert any(read[index + 1] == 1 for index in slices), "a token is drawn between two slices"


# -------------------------------------------------------------------------------------------------------------- faults


def test_logits_that_are_no_numbers_end_their_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_parts()
    own = parts(DECODERS["base"])
    reading = own.model.next_logits

    def spoiled(state: Any) -> torch.Tensor:
        logits = reading(state).clone()
        for row, ids in enumerate(state.ids):
            if ids[:1] == [88]:
                logits[row] = torch.nan
        return logits

    monkeypatch.setattr(own.model, "next_logits", spoiled)
    engine = Engine(parts)
    bad = [engine.submit(request(name, prompt=(88, 5, 6), n=2)) for name in ("base", "cbs")]
    good = [request(name) for name in ("base", "cbs", "bon")]
    handles = [engine.submit(one) for one in good]
    for handle in bad:
        error = Answer.of(handle).error
        assert isinstance(error, ModelError)
        assert str(error) == "the prompt has no response: a model's logits for it are not finite numbers"
    answers = [Answer.of(handle) for handle in handles]
    engine.close()
    assert engine.counters().rows == 0
    for one, answer in zip(good, answers, strict=True):
        check_equal(one, answer, parts(one.decoder))


def test_an_error_of_a_reward_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_parts()
    own = parts(DECODERS["by a function"])
    judging = own.value.advance

    def failing(state: Any, parents: Any, candidates: Any) -> Any:
        if any(candidate.prompt.text == "boo" for candidate in candidates):
            raise ValueError("no boo")
        return judging(state, parents, candidates)

    monkeypatch.setattr(own.value, "advance", failing)
    engine = Engine(parts)
    bad = engine.submit(request("by a function", prompt="boo"))
    good = [request("by a function", seed=seed) for seed in range(5)]
    handles = [engine.submit(one) for one in good]
    error = Answer.of(bad).error
    assert isinstance(error, RunError) and "ValueError: no boo" in str(error) and "\n" not in str(error)
    answers = [Answer.of(handle) for handle in handles]
    engine.close()
    for one, answer in zip(good, answers, strict=True):
        check_equal(one, answer, own)


def out_of_memory_above(rows: int, call: Callable[..., Any], count: Callable[..., int]) -> Callable[..., Any]:
    def limited(*given: Any) -> Any:
        if count(*given) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(*given)

    return limited


@pytest.mark.parametrize("where", ["draw", "judge", "start"])
def test_where_memory_runs_out_rows_are_lowered_and_no_request_is_lost(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Requests that make way go on later, from where they were: their answers and streams are the same."""
    parts = tiny_parts()
    guided_parts = parts(DECODERS["cbs"])
    model, value = guided_parts.model, guided_parts.value
    if where == "draw":
        limited = out_of_memory_above(13, model.next_logits, lambda state: len(state.ids))
        monkeypatch.setattr(model, "next_logits", limited)
    elif where == "judge":
        monkeypatch.setattr(value, "advance", out_of_memory_above(13, value.advance, lambda s, p, c: len(c)))
    else:
        prompts = iter([0, 1, 0, 1])  # the second reading has no memory, and the fourth, of one of its prompts alone
        limited = out_of_memory_above(0, model._read, lambda _, feeds: max(map(len, feeds)) > 2 and next(prompts, 0))
        monkeypatch.setattr(model, "_read", limited)
    engine = Engine(parts)
    requests = [request("cbs", seed=seed, stream=seed % 2 == 0, n=1 + seed % 2) for seed in range(6)]
    requests += [request("base", seed=seed, stream=True, logprobs=1) for seed in range(3)]
    handles = [engine.submit(one) for one in requests]
    answers = [Answer.of(handle) for handle in handles]
    counters = engine.counters()
    engine.close()
    assert counters.memory_cuts > 0 or where == "judge"
    monkeypatch.undo()
    for one, answer in zip(requests, answers, strict=True):
        check_equal(one, answer, parts(one.decoder))


def test_after_memory_has_run_out_half_as_many_rows_run_and_then_again_as_many_as_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that had made way go on in the order in which they came."""
    parts, ended = tiny_parts(), list[str]()
    finish = Choice.finish

    def noting(self: Choice, *given: Any) -> None:
        ended.append(self.entry.request.id)
        finish(self, *given)

    monkeypatch.setattr(Choice, "finish", noting)
    model = parts(DECODERS["bon"]).model
    memory = [9]  # rows
    limited = out_of_memory_above(0, model.next_logits, lambda state: max(0, len(state.ids) - memory[-1]))
    monkeypatch.setattr(model, "next_logits", limited)
    engine = Engine(parts, Limits(rows=17))
    requests = [request("bon", id=str(seed), seed=seed, max_new_tokens=20) for seed in range(6)]
    handles = [engine.submit(one) for one in requests]
    assert all(Answer.of(handle).error is None for handle in handles)
    assert ended == [one.id for one in requests]
    assert 5 <= engine.counters().row_limit <= 9  # half of 10, or of 15
    memory.append(100)
    monkeypatch.setattr(engine_schedule, "CALM_STEPS", 4)
    for one in requests[:3]:
        assert Answer.of(engine.submit(one)).error is None
    assert engine.counters().row_limit == 17
    engine.close()


def test_a_request_that_memory_does_not_hold_alone_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_parts()
    model = parts(DECODERS["cbs"]).model
    limited = out_of_memory_above(4, model.next_logits, lambda state: len(state.ids))
    monkeypatch.setattr(model, "next_logits", limited)
    engine = Engine(parts)
    bad, good = engine.submit(request("cbs")), request("base")
    handle = engine.submit(good)
    error = Answer.of(bad).error
    assert str(error) == "memory does not hold this request even alone: lower n, width, successors or max_tokens"
    check_equal(good, Answer.of(handle), parts(good.decoder))
    engine.close()


def test_a_decoder_that_is_known_needs_no_turn_of_the_engine() -> None:
    """While a step lasts, requests for it are taken on; only a decoder that is new waits for its parts to be made."""
    parts = tiny_parts()
    known = parts(DECODERS["cbs"])
    engine, gate = Engine(parts), threading.Event()
    held = threading.Thread(target=lambda: engine.between_steps(gate.wait))
    held.start()
    handle = engine.submit(request("cbs"))
    assert engine.tokenize("I", DECODERS["cbs"]) and engine.context(DECODERS["cbs"]) > 0
    waiting = threading.Thread(target=lambda: engine.context(DECODERS["eft"]))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    gate.set()
    waiting.join(30)
    held.join()
    assert not waiting.is_alive()
    check_equal(handle.request, Answer.of(handle), known)
    engine.close()
