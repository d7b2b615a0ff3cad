"""The engine behind `trimtab serve`: one thread that decodes the rows of all requests together.

Between two tokens it takes requests on, reads a slice of a prompt, and frees the rows of those who hung up. Searches
of whatever width, chunk, sampling and length share the calls of the models that they have in common.

    engine = Engine(RoleParts(roles), Limits(rows=256))
    for event in engine.submit(GenerationRequest(id="r1", prompt="I really")):
        print(event)
    engine.close(drain_seconds=10)
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from trimtab.config.guide import DecoderConfig
from trimtab.errors import TrimtabError
from trimtab.messages import prompt_of
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput
from trimtab.serve.engine_choice import Entry
from trimtab.serve.engine_entry import check_fits, check_rows, context_of, entry_of
from trimtab.serve.engine_handle import Handle
from trimtab.serve.engine_parts import DecoderParts, PartsOf
from trimtab.serve.engine_schedule import Schedule
from trimtab.serve.engine_tokens import TokenTexts
from trimtab.serve.requests import (
    Counters,
    GenerationRequest,
    Limits,
    QueueFullError,
    RefusedError,
    ShutdownError,
    Token,
)

MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0
MAX_NAMES, OTHER = 100, "other"
"""So many decoders are counted by name, and all others together."""
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Engine:
    """A `GenerationEngine` over the decoders that `parts_of` gives.

    `submit` and `tokenize` ask the engine's thread for the parts of a decoder that is new, and so may wait for a step:
    from asyncio call them in a thread (`asyncio.to_thread`).
    """

    def __init__(self, parts_of: PartsOf, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._parts_of = parts_of
        self._schedule = Schedule(self.limits, self._ended)
        self._texts: dict[Vocabulary, TokenTexts] = {}
        self._new: deque[Entry] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._closing, self._end_at = False, float("inf")
        self._refusals: Counter[str] = Counter()
        self._drawn: Counter[str] = Counter()
        self._returned: Counter[str] = Counter()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._steps, self._step_seconds, self._request_seconds = 0, 0.0, MIN_RETRY_SECONDS
        self._thread = threading.Thread(target=self._run, name="trimtab-engine", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------------- from other threads

    def submit(self, request: GenerationRequest) -> Handle:
        """Take a request on.

        Raises:
            QueueFullError, ContextLengthError, TooManyRowsError, ShutdownError: it is refused.
            TrimtabError: the prompt cannot be read, or settings do not go together; the message says which.
        """
        try:
            self._check_open()
            check_rows(request, self.limits)
            parts = self._parts(request.decoder)
            entry = entry_of(request, Handle(request, self._notify), parts, self._token_texts(parts))
            check_fits(entry, self.limits)
            with self._wake:
                self._check_open()
                entry.submitted = time.monotonic()
                self._new.append(entry)
                self._wake.notify()
        except RefusedError as error:
            with self._wake:
                self._refusals[error.reason] += 1
            raise
        return entry.handle

    def tokenize(self, prompt: PromptInput, decoder: DecoderConfig) -> list[Token]:
        """The prompt as the decoder's model reads it, template included.

        Raises:
            DataError, ModelError: the prompt cannot be read.
        """
        parts = self._parts(decoder)
        vocabulary = parts.model.vocabulary
        ids = vocabulary.encode_prompt(prompt_of(prompt, "the prompt"), parts.model.template)
        return list(self._token_texts(parts).tokens(ids))

    def between_steps(self, call: Callable[[], Result]) -> Result:
        """The result of a call in the engine's thread, which owns the models, between two steps.

        Raises:
            ShutdownError: the engine is closing, or closed; and what `call` raises.
        """
        future: Future[Result] = Future()
        with self._wake:
            if self._closing:
                raise ShutdownError("the server is shutting down")
            self._calls.append((call, future))
            self._wake.notify()
        return future.result()

    def context(self, decoder: DecoderConfig) -> int:
        """How many tokens prompt and response may have together."""
        return context_of(self._parts(decoder), self.limits)

    def counters(self) -> Counters:
        """What has happened so far, and what runs now."""
        schedule = self._schedule
        waiting = schedule.waiting + len(self._new)
        return Counters(
            queued=waiting,
            running=max(0, len(schedule.entries) - schedule.waiting),
            rows=schedule.rows,
            row_limit=schedule.row_limit,
            memory_cuts=schedule.memory_cuts,
            steps=self._steps,
            step_seconds=self._step_seconds,
            drawn=dict(self._drawn),
            returned=dict(self._returned),
            requests=dict(self._outcomes),
            refusals=dict(self._refusals),
        )

    @property
    def alive(self) -> bool:
        """Whether requests are taken on: False once the engine is closing, or its thread has ended."""
        return self._thread.is_alive() and not self._closing

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take nothing on any more, let what runs or waits end for so many seconds, then end the rest."""
        with self._wake:
            self._closing, self._end_at = True, time.monotonic() + drain_seconds
            self._wake.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise ShutdownError("the server is shutting down")
        waiting = self._schedule.waiting + len(self._new)
        if waiting >= self.limits.queue:
            running = max(1, len(self._schedule.entries) - self._schedule.waiting)
            seconds = self._request_seconds * waiting / running
            retry = min(MAX_RETRY_SECONDS, max(MIN_RETRY_SECONDS, seconds))
            raise QueueFullError(f"{waiting} requests wait already: ask again in {retry:.0f} seconds", retry)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _parts(self, decoder: DecoderConfig) -> DecoderParts:
        known = self._parts_of.known(decoder)
        return self.between_steps(lambda: self._parts_of(decoder)) if known is None else known

    def _token_texts(self, parts: DecoderParts) -> TokenTexts:
        vocabulary = parts.model.vocabulary
        return self._texts.setdefault(vocabulary, TokenTexts(vocabulary))

    # --------------------------------------------------------------------------------------------- the engine's thread

    def _run(self) -> None:
        keep_freed_memory()
        try:
            while self._wait():
                self._work_on()
        except BaseException:
            _log.exception("the engine has stopped")
            raise
        finally:
            with self._wake:
                self._closing = True
            self._receive()
            self._answer_calls()
            for entry in list(self._schedule.entries):
                self._schedule.fail(entry, ShutdownError("the server has shut down"))

    def _wait(self) -> bool:
        """Wait until there is something to do; False where nothing is left and the engine closes, or its time is up."""
        with self._wake:
            while not (self._closing or self._calls or self._new or self._schedule.entries):
                self._wake.wait()
            return not self._closing or (bool(self._schedule.entries or self._new) and time.monotonic() < self._end_at)

    def _work_on(self) -> None:
        """One step; an error that escapes from it ends the requests that run, and the engine goes on with others."""
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 (whatever it is, other requests must not wait for ever)
            _log.exception("a step of the engine has failed")
            self._schedule.fail_running(error)

    def _work(self) -> None:
        """One step: what is new, a slice of a prompt, and a token for every row."""
        started = time.monotonic()
        self._answer_calls()
        self._receive()
        self._schedule.end_cancelled()
        self._schedule.admit()
        self._schedule.read()
        if self._schedule.step():
            self._steps += 1
            self._step_seconds += time.monotonic() - started

    def _answer_calls(self) -> None:
        while self._calls:
            call, future = self._calls.popleft()
            try:
                future.set_result(call())
            except TrimtabError as error:
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001 (a plug-in's value may be a user's code; the caller gets the error)
                _log.exception("a decoder or a reward cannot be made")
                future.set_exception(error)

    def _receive(self) -> None:
        while self._new:
            self._schedule.add(self._new.popleft())

    def _counted_as(self, name: str) -> str:
        """The decoder's name in counters, which clients could fill with names without end."""
        return name if name in self._drawn or len(self._drawn) < MAX_NAMES else OTHER

    def _ended(self, entry: Entry, outcome: str) -> None:
        name = self._counted_as(entry.request.decoder.name)
        self._outcomes[name, outcome] += 1
        self._drawn[name] += entry.drawn
        self._returned[name] += entry.returned
        if outcome == "answered":
            self._request_seconds += 0.1 * (time.monotonic() - entry.submitted - self._request_seconds)
