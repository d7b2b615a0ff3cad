"""Where memory runs out, or a step goes wrong, the engine goes on; and rows take no more memory than they need."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from served import DECODERS, SAMPLINGS, Answer, expected, tiny_parts
from trimtab.errors import RunError
from trimtab.search.value import ImplicitState
from trimtab.serve import engine_schedule, row_pool
from trimtab.serve.engine import Engine
from trimtab.serve.engine_choice import Choice
from trimtab.serve.engine_parts import RoleParts
from trimtab.serve.engine_schedule import Schedule
from trimtab.serve.engine_step import Judging, draw_tokens
from trimtab.serve.requests import GenerationRequest, Limits, ShutdownError
from trimtab.serve.row_pool import RowPool

SECONDS = 60


def request(name: str, **settings: Any) -> GenerationRequest:
    given = {"id": name, "prompt": "I really", "sampling": SAMPLINGS[0], "max_new_tokens": 14, **settings}
    return GenerationRequest(decoder=DECODERS[name], **given)


def check_answers(parts: RoleParts, requests: Sequence[GenerationRequest], answers: Sequence[Answer]) -> None:
    for one, answer in zip(requests, answers, strict=True):
        assert answer.error is None, one
        hypotheses = expected(one, parts(one.decoder))
        assert answer.texts == {index: each.text for index, each in enumerate(hypotheses)}, one
        assert [[token.id for token in answer.tokens[index]] for index in range(one.n)] == [
            each.token_ids for each in hypotheses
        ], one


def answers_of(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Answer]:
    """The answers to requests that are taken on together; a test fails where the engine never gives them."""
    answers: list[Answer] = []
    with held(engine):
        handles = [engine.submit(one) for one in requests]
    reader = threading.Thread(target=lambda: answers.extend(map(Answer.of, handles)), daemon=True)
    reader.start()
    reader.join(SECONDS)
    for handle in handles:
        handle.cancel()
    engine.close()
    assert not reader.is_alive(), "the engine does not answer"
    return answers


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Hold the engine's thread up between two steps."""
    for name in DECODERS:
        engine.context(DECODERS[name])  # its parts are made, so that no request for it waits for the thread
    reached, gate = threading.Event(), threading.Event()
    holding = threading.Thread(target=lambda: engine.between_steps(lambda: (reached.set(), gate.wait())))
    holding.start()
    reached.wait()
    yield
    gate.set()
    holding.join()


def failing(call: Callable[..., Any], at: Callable[..., bool], error: type[BaseException]) -> Callable[..., Any]:
    """The call, which raises the error where `at` says so of what it is given."""

    def limited(*given: Any) -> Any:
        if at(*given):
            raise error("CUDA out of memory")
        return call(*given)

    return limited


def at_calls(*numbers: int) -> Callable[..., bool]:
    """Whether this is one of the calls of these numbers, counted from 1."""
    calls = iter(range(1, 1_000_000))
    return lambda *given: next(calls) in numbers


# ------------------------------------------------------------------------------------------------------------ readings


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_prompt_that_memory_does_not_hold_alone_fails_however_many_choices_it_has(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    parts = tiny_parts()
    model = parts(DECODERS["base"]).model
    too_long = failing(model._read, lambda _, feeds: max(map(len, feeds)) > 4, torch.OutOfMemoryError)
    monkeypatch.setattr(model, "_read", too_long)
    requests = [request("base", n=n, prompt="I really liked this movie a lot"), request("base", id="short")]
    bad, good = answers_of(Engine(parts), requests)
    assert str(bad.error) == "memory does not hold this request even alone: lower n, width, successors or max_tokens"
    check_answers(parts, requests[1:], [good])


def test_what_is_half_read_makes_way_for_what_memory_holds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read one after the other where memory does not hold two that are half read."""
    parts = tiny_parts()
    model, half_read = parts(DECODERS["base"]).model, weakref.WeakSet[Any]()
    reading = model._read

    def limited(state: Any, feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        if len(feeds[0]) > 1 and any(other is not state.cache for other in half_read):
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(feeds[0]) > 1:
            half_read.add(state.cache)
        return reading(state, feeds)

    monkeypatch.setattr(model, "_read", limited)
    engine = Engine(parts, Limits(slice_tokens=4))
    requests = [request("base", id=str(seed), seed=seed, prompt="This was the worst film" * 2) for seed in range(3)]
    answers = answers_of(engine, requests)
    monkeypatch.undo()
    assert engine.counters().memory_cuts > 0
    check_answers(parts, requests, answers)


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("settings", [{}, {"stream": True}, {"echo": True}])
def test_rows_for_which_there_is_no_memory_in_their_pool_enter_it_later(
    monkeypatch: pytest.MonkeyPatch, call: int, settings: dict[str, bool]
) -> None:
    parts = tiny_parts()
    monkeypatch.setattr(RowPool, "enter", failing(RowPool.enter, at_calls(call), torch.OutOfMemoryError))
    requests = [request(name, n=2, **settings) for name in ("base", "cbs")]
    answers = answers_of(Engine(parts), requests)
    check_answers(parts, requests, answers)
    assert all(len(answer.prompt) == 2 * ("echo" in settings) for answer in answers)


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ValueError])
@pytest.mark.parametrize("settings", [{}, {"stream": True}, {"echo": True}])
def test_choices_that_have_begun_are_not_begun_anew_where_another_one_fails_to(
    monkeypatch: pytest.MonkeyPatch, call: int, error: type[Exception], settings: dict[str, bool]
) -> None:
    parts = tiny_parts()
    one = request("cbs", n=3, **settings)
    monkeypatch.setattr(ImplicitState, "select", failing(ImplicitState.select, at_calls(call), error))
    answers = answers_of(Engine(parts), [one])
    monkeypatch.undo()
    check_answers(parts, [one], answers)
    assert len(answers[0].prompt) == 3 * ("echo" in settings)


def test_answers_that_wait_for_their_log_probabilities_make_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search's answer is scored by a reading of its own, which is begun anew after memory has run out."""
    parts = tiny_parts()
    requests = [request("cbs", logprobs=1, max_new_tokens=4), request("base", n=2, max_new_tokens=40)]
    model, scoring = parts(DECODERS["cbs"]).model, list[int]()
    made = engine_schedule.last_reading

    def noting(*given: Any) -> Any:
        scoring.append(1)
        return made(*given)

    monkeypatch.setattr(engine_schedule, "last_reading", noting)
    once = at_calls(1)
    limited = failing(model.next_logits, lambda _: bool(scoring) and once(), torch.OutOfMemoryError)
    monkeypatch.setattr(model, "next_logits", limited)
    engine = Engine(parts, Limits(slice_tokens=2))
    answers = answers_of(engine, requests)
    assert engine.counters().memory_cuts == 1
    monkeypatch.undo()
    check_answers(parts, requests, answers)
    assert None not in [token.log_probability for token in answers[0].tokens[0]]


# --------------------------------------------------------------------------------------------------------------- steps


def test_where_there_is_no_memory_for_a_smaller_pool_either_its_rows_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_parts()
    value = parts(DECODERS["cbs"]).value
    monkeypatch.setattr(value, "advance", failing(value.advance, at_calls(2), torch.OutOfMemoryError))
    monkeypatch.setattr(RowPool, "shrink", failing(RowPool.shrink, at_calls(1), torch.OutOfMemoryError))
    engine = Engine(parts)
    requests = [request("cbs"), request("base", max_new_tokens=30)]
    answers = answers_of(engine, requests)
    assert engine.counters().memory_cuts == 1
    monkeypatch.undo()
    check_answers(parts, requests, answers)


def test_what_a_judgement_without_memory_has_made_is_gone_when_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = tiny_parts()
    value = parts(DECODERS["cbs"]).value
    judging, made, alive = value.advance, list[weakref.ref[torch.Tensor]](), list[bool]()

    def limited(*given: Any) -> Any:
        alive.extend(tensor() is not None for tensor in made)
        if not made:
            half = torch.zeros(3)
            made.append(weakref.ref(half))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return judging(*given)

    monkeypatch.setattr(value, "advance", limited)
    (answer,) = answers_of(Engine(parts), [request("cbs")])
    assert answer.error is None and alive and not any(alive)


def test_an_error_at_the_end_of_a_chunk_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_parts()
    at = failing(Choice.grow, lambda choice: choice.entry.request.id == "bad", ValueError)
    monkeypatch.setattr(Choice, "grow", at)
    engine = Engine(parts)
    requests = [request(name, id=name_of, n=2) for name in ("base", "cbs") for name_of in ("bad", "good")]
    answers = answers_of(engine, requests)
    assert [isinstance(answer.error, RunError) for answer in answers] == [True, False] * 2
    check_answers(parts, requests[1::2], answers[1::2])


@pytest.mark.parametrize("where", ["end_cancelled", "admit", "read", "step", "_judge"])
def test_an_error_that_nobody_expects_ends_what_runs_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    parts = tiny_parts()
    engine, once = Engine(parts), at_calls(1)
    trouble = failing(getattr(Schedule, where), lambda schedule, *_: bool(schedule.entries) and once(), ValueError)
    monkeypatch.setattr(Schedule, where, trouble)
    error = Answer.of(engine.submit(request("cbs", n=2))).error
    assert isinstance(error, RunError) and "ValueError" in str(error)
    assert engine.alive and engine.counters().rows == 0
    one = request("cbs")
    check_answers(parts, [one], answers_of(engine, [one]))
    assert not engine.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_has_ended_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_parts())
    assert engine.alive
    ending = failing(Schedule.step, lambda schedule: bool(schedule.entries), SystemExit)
    monkeypatch.setattr(Schedule, "step", ending)
    assert isinstance(Answer.of(engine.submit(request("base"))).error, ShutdownError)
    engine._thread.join(SECONDS)
    assert not engine.alive
    with pytest.raises(ShutdownError):
        engine.submit(request("base"))


# --------------------------------------------------------------------------------------------------------------- sizes


def test_short_rows_do_not_take_the_memory_of_long_ones_that_begin_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_parts()
    monkeypatch.setattr(row_pool, "SHORT", 30)
    rooms: dict[int, set[int]] = {5: set(), 200: set()}
    value_rooms: dict[int, set[int]] = {5: set(), 200: set()}

    def noting(pool: RowPool, choices: Sequence[Choice]) -> None:
        draw_tokens(pool, choices)
        for choice in choices:
            rooms[choice.entry.request.max_new_tokens].add(pool._state.cache.capacity)

    values = Judging.values

    def noting_values(self: Judging) -> Any:
        state, numbers = values(self)
        for choice in self.choices:
            value_rooms[choice.entry.request.max_new_tokens].add(state.tuned.cache.capacity)
        return state, numbers

    monkeypatch.setattr(engine_schedule, "draw_tokens", noting)
    monkeypatch.setattr(Judging, "values", noting_values)
    requests = [request("bon", id=str(tokens), max_new_tokens=tokens) for tokens in (5, 200)]
    answers = answers_of(Engine(parts), requests)
    check_answers(parts, requests, answers)
    for seen in (rooms, value_rooms):
        assert max(seen[5]) < 30 and min(seen[200]) > 200
