"""Which responses run: they wait in line, have rows in pools, step together, make way when memory runs out, and end.

All of it belongs to the engine's thread.
"""

import logging
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from trimtab.models.language_model import DecodeState
from trimtab.search.hypothesis import Step
from trimtab.serve.engine_choice import Choice, Entry, ValuedRows
from trimtab.serve.engine_reading import Reading, first_reading, last_reading, second_reading
from trimtab.serve.engine_step import Judging, as_ours, draw_tokens, is_out_of_memory, make_room, size_of
from trimtab.serve.requests import CancelledError, Limits, RequestEnd, RequestFailed, ShutdownError
from trimtab.serve.row_pool import RowPool

ATTEMPTS = 3  # to draw a token for a response that runs alone, where memory runs out
CALM_STEPS = 200  # without an error of memory, after which twice as many rows are tried again
_log = logging.getLogger(__name__)


class Schedule:
    """Choices that wait or run. `ended` is called with each request that has its last event, and how it ended."""

    def __init__(self, limits: Limits, ended: Callable[[Entry, str], None]) -> None:
        self._limits, self._ended = limits, ended
        self.row_limit = limits.rows
        self.memory_cuts = 0
        self.entries: list[Entry] = []
        self.active: list[Choice] = []  # in the order in which they were admitted
        self.waiting = 0  # requests of which no choice has begun
        self._waiting: deque[Choice] = deque()
        self._parked: deque[Reading] = deque()  # of one choice each, which ran before memory ran out
        self._readings: deque[Reading] = deque()
        self._pools: dict[Hashable, RowPool] = {}
        self._calm = 0

    @property
    def rows(self) -> int:
        """The most rows that the choices which run may take."""
        return sum(choice.entry.search.candidates for choice in self.active)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._waiting.extend(entry.choices)

    # -------------------------------------------------------------------------------------------------- between steps

    def end_cancelled(self) -> None:
        """End the requests that nobody reads any more."""
        for entry in [entry for entry in self.entries if entry.handle.cancelled]:
            self.fail(entry, CancelledError("the request was cancelled"))

    def admit(self) -> None:
        """Let as many choices begin as there are rows for, in the order in which they came."""
        first: dict[Hashable, list[Choice]] = {}
        while self._parked or self._waiting:
            choice = self._parked[0].choices[0] if self._parked else self._waiting[0]
            entry = choice.entry
            if self.active and self.rows + entry.search.candidates > self.row_limit:
                break
            self.active.append(choice)
            if self._parked:
                self._readings.append(self._parked.popleft())
                continue
            self._waiting.popleft()
            alone = len(entry.prompt_ids) > self._limits.slice_tokens // 2 or entry.request.echo
            first.setdefault(id(entry) if alone else (id(entry.parts), size_of(entry)), []).append(choice)
        self.waiting = sum(choice is choice.entry.choices[0] for choice in self._waiting)
        for choices in first.values():
            self._readings.append(first_reading(choices, self._limits.slice_tokens, self._begin))

    def read(self) -> None:
        """Read a slice of one prompt; prompts take turns."""
        if not self._readings:
            return
        reading = self._readings.popleft()
        if all(choice.entry.ended for choice in reading.choices):
            return
        try:
            more = reading.go_on()
        except Exception as error:  # noqa: BLE001 (an error in one request must not stop the others)
            self._reading_failed(reading, error)
            return
        if more:
            self._readings.append(reading)
        for choice in reading.choices:
            if choice.ended and not choice.entry.ended:
                self._leave(choice)

    def _begin(self, choice: Choice, state: DecodeState, rows: list[int], valued: ValuedRows | None) -> None:
        if choice.entry.ended:
            return
        model = choice.entry.parts.model
        pool = self._pools.setdefault((id(model), state.kind, size_of(choice.entry)), RowPool(model))
        choice.rows, choice.pool, choice.valued = pool.enter(state, rows), pool, valued
        choice.begin()

    # ------------------------------------------------------------------------------------------------------- one step

    def step(self) -> bool:
        """Draw a token for every row; False where there is none."""
        whole: list[Choice] = []
        failed: list[tuple[list[Choice], Exception]] = []
        pools = {key: [choice for choice in self.active if choice.pool is pool] for key, pool in self._pools.items()}
        for key, choices in pools.items():
            if not choices:
                del self._pools[key]
                continue
            try:
                draw_tokens(self._pools[key], choices)
            except Exception as error:  # noqa: BLE001 (the engine goes on with other models)
                failed.append((choices, error))
                continue
            whole += [choice for choice in choices if choice.chunk_done]
        self._judge(whole)
        for choices, reason in failed:
            self._step_failed([choice for choice in choices if choice.rows is not None], reason)
        self._calm += 1
        if self._calm >= CALM_STEPS and self.row_limit < self._limits.rows:
            self.row_limit, self._calm = min(self._limits.rows, 2 * self.row_limit), 0
        return bool(self._pools)

    def _judge(self, whole: Sequence[Choice]) -> None:
        """End a step of the search of each of these choices, whose chunks are whole."""
        for choice in whole:
            try:
                if choice.waited and choice.pool is not None:
                    choice.pool.read_again(choice.rows or ())
                choice.grow()
            except Exception as reason:  # noqa: BLE001 (an error in one request must not stop the others)
                self.fail(choice.entry, reason)
        whole = [choice for choice in whole if not choice.entry.ended]
        for choice in whole:
            if choice.entry.parts.value is None:
                self._select(choice, None)
        groups = Judging.groups([choice for choice in whole if choice.entry.parts.value is not None])
        without_memory: list[Judging] = []
        while groups:
            group = groups.pop()
            error = self._judged(group)
            if error is not None and len(group.choices) > 1:
                groups += group.halves()
            elif error is not None and is_out_of_memory(error):
                without_memory.append(group)
            elif error is not None:
                self.fail(group.choices[0].entry, error)
        if without_memory:
            self._make_way({choice for group in without_memory for choice in group.choices})
        for group in without_memory:
            error = self._judged(group)
            if error is not None:
                self.fail(group.choices[0].entry, error)

    def _judged(self, group: Judging) -> Exception | None:
        """Judge the choices of a group that have not ended; the error where that fails, and nothing has changed."""
        group.choices = [choice for choice in group.choices if not choice.entry.ended]
        if not group.choices:
            return None
        try:
            state, values = group.values()
        except Exception as error:  # noqa: BLE001 (a reward may be a user's code; it is tried for each choice alone)
            return error.with_traceback(None) if is_out_of_memory(error) else error  # its frames hold tensors
        first, kept = 0, dict[Choice, list[int]]()
        for choice, numbers in zip(group.choices, values, strict=True):
            if self._select(choice, numbers):
                assert choice.running is not None
                kept[choice] = [first + row for row in choice.running.rows]
            first += len(numbers)
        self._keep(state, {choice: rows for choice, rows in kept.items() if not choice.entry.ended})
        return None

    def _select(self, choice: Choice, values: Sequence[float] | None) -> bool:
        """End a step with its values; whether the search goes on."""
        if choice.entry.ended:  # another choice of the same request has failed
            return False
        try:
            assert choice.pool is not None
            step, free = choice.select(values)
            choice.pool.free(free)
            if step.finished:
                self._finish(choice, step)
            return not step.finished
        except Exception as error:  # noqa: BLE001 (an error in one request must not stop the others)
            self.fail(choice.entry, error)
            return False

    def _keep(self, state: Any, kept: Mapping[Choice, Sequence[int]]) -> None:
        """Keep these rows of the value's state, side by side in one that all these choices share."""
        if not kept:
            return
        try:
            shared = None if state is None else state.select([row for rows in kept.values() for row in rows])
        except Exception as error:  # noqa: BLE001 (memory may hold fewer, and a state may be a user's)
            if len(kept) == 1:
                self.fail(next(iter(kept)).entry, error)
                return
            for choice, rows in kept.items():
                self._keep(state, {choice: rows})
            return
        first = 0
        for choice, rows in kept.items():
            choice.valued = ValuedRows(shared, range(first, first + len(rows)))
            first += len(rows)

    def _finish(self, choice: Choice, step: Step) -> None:
        choice.rows, choice.pool, choice.valued = None, None, None
        answer = choice.answer(step)
        if choice.entry.request.logprobs is not None and not choice.wants_details:
            self._readings.append(last_reading(choice, answer, self._limits.slice_tokens))
            return
        choice.finish(answer)
        self._leave(choice)

    # ------------------------------------------------------------------------------------------------------------ ends

    def _leave(self, choice: Choice) -> None:
        self.active.remove(choice)
        entry = choice.entry
        if all(other.ended for other in entry.choices):
            entry.ended = True
            self.entries.remove(entry)
            self._ended(entry, "answered")
            entry.handle.put(RequestEnd(entry.usage))

    def fail(self, entry: Entry, error: Exception) -> None:
        """End a request without an answer, and free its rows."""
        if entry.ended:
            return
        entry.ended = True
        self.entries.remove(entry)
        for choice in entry.choices:
            if choice.pool is not None and choice.rows is not None:
                choice.pool.free(choice.rows)
            choice.rows, choice.pool, choice.valued = None, None, None
        self.active = [choice for choice in self.active if choice.entry is not entry]
        self._waiting = deque(choice for choice in self._waiting if choice.entry is not entry)
        self._parked = deque(reading for reading in self._parked if reading.choices[0].entry is not entry)
        self._ended(entry, "cancelled" if isinstance(error, CancelledError | ShutdownError) else "failed")
        entry.handle.put(RequestFailed(as_ours(error)))

    def fail_running(self, error: Exception) -> None:
        """After an error of which nobody knows whose it is: end what runs (or all, where nothing does), and go on."""
        for entry in {choice.entry for choice in self.active} or set(self.entries):
            self.fail(entry, error)
        self.active, self._readings, self._pools = [], deque(), {}

    # ----------------------------------------------------------------------------------------------- errors of a step

    def _reading_failed(self, reading: Reading, error: Exception) -> None:
        reading.choices = [choice for choice in reading.choices if not choice.entry.ended]
        alone = len(reading.choices) == 1
        again = reading.again()
        if is_out_of_memory(error):
            if alone and self._is_hopeless(reading.choices[0]):
                self.fail(reading.choices[0].entry, error)
                return
            self._make_way({part.choices[0] for part in again})
        elif alone:
            self.fail(reading.choices[0].entry, error)
            return
        self._readings.extendleft(reversed(again))

    def _step_failed(self, choices: Sequence[Choice], error: Exception) -> None:
        if is_out_of_memory(error) and choices and not self._is_hopeless(choices[0]):
            self._make_way(set())
            return
        for choice in choices:
            self.fail(choice.entry, error)

    def _is_hopeless(self, choice: Choice) -> bool:
        """Whether memory has run out for a choice that ran alone, several times without a token between them."""
        choice.attempts += len(self.active) == 1
        return choice.attempts >= ATTEMPTS

    def _make_way(self, keep: set[Choice]) -> None:
        """Memory has run out: all but what `keep` has is given up, and half as many rows may run from now on.

        A choice that makes way waits in front of all others. Then its prompt and its responses so far are read again;
        what was half read is begun anew, since it holds memory, too.
        """
        self.memory_cuts += 1
        self.row_limit, self._calm = max(1, self.rows // 2), 0
        parked = {again.choices[0]: again for reading in self._readings for again in reading.again()}
        self._readings.clear()
        for choice in self.active:
            if choice.pool is not None and choice.rows is not None and choice not in keep:
                choice.pool.free(choice.rows)
                choice.rows, choice.pool = None, None
                parked[choice] = second_reading(choice, self._limits.slice_tokens, self._begin)
        self._parked.extendleft(parked[choice] for choice in reversed(self.active) if choice in parked)
        self.active = [choice for choice in self.active if choice not in parked]
        for key, pool in list(self._pools.items()):
            if not any(choice.pool is pool for choice in self.active):
                pool.drop()
                del self._pools[key]
        make_room(self._pools.values())
        _log.warning("memory has run out: %d rows may run now, %d responses wait", self.row_limit, len(self._parked))
