"""An answer as server-sent events, and an answer as a whole; both end early where the client hangs up."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request

from trimtab.serve.answer_state import AnswerState, events_of
from trimtab.serve.answers import ChatCompletion, Completion
from trimtab.serve.api_errors import ApiError
from trimtab.serve.formats import Format, step_of, usage_of
from trimtab.serve.metrics import Metrics
from trimtab.serve.requests import ChoiceEnd, Event, RequestHandle, SearchStep, TextPiece

KEEP_ALIVE_SECONDS = 5
SEND_SECONDS = 60  # how long a client may leave an event unread
DONE = "[DONE]"
_log = logging.getLogger("trimtab.serve")


class Clock:
    """Notes for the access log and the metrics of one request."""

    def __init__(self, request: Request, metrics: Metrics, decoder: str) -> None:
        self._started, self._metrics, self._decoder = time.monotonic(), metrics, decoder
        self._first = True
        self.note: dict[str, Any] = request.state.note

    def saw(self, event: Event) -> None:
        """Note when the first text of the answer came; an echoed prompt is none."""
        if self._first and isinstance(event, TextPiece) and event.text and not event.prompt:
            self._first = False
            seconds = time.monotonic() - self._started
            self._metrics.first_token.labels(self._decoder).observe(seconds)
            self.note["first"] = f"{seconds:.3f}s"

    def end(self, state: AnswerState) -> None:
        """The answer is whole."""
        self._metrics.prompt.labels(self._decoder).inc(state.usage.prompt)
        self.note |= {"prompt": state.usage.prompt, "returned": state.usage.returned, "drawn": state.usage.drawn}


async def whole_answer(
    request: Request, handles: Sequence[RequestHandle], state: AnswerState, form: Format, clock: Clock
) -> ChatCompletion | Completion:
    """The answer once it has ended.

    Raises:
        ApiError: the request failed, or its client has hung up.
    """
    answering = asyncio.create_task(_collected(handles, state, clock))
    leaving = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ApiError(499, "the client hung up", code="client_closed_request")
        answering.result()
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
    clock.end(state)
    return form.whole(state)


async def _collected(handles: Sequence[RequestHandle], state: AnswerState, clock: Clock) -> None:
    events = events_of(handles)
    try:
        async for prompt, event in events:
            state.take(prompt, event)
            clock.saw(event)
    finally:
        await events.aclose()
    await state.score()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def stream(
    handles: Sequence[RequestHandle], state: AnswerState, form: Format, clock: Clock, include_usage: bool
) -> EventSourceResponse:
    """The answer event by event, with comments in between while nothing new is known."""
    return EventSourceResponse(
        _events(handles, state, form, clock, include_usage),
        ping=KEEP_ALIVE_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="working"),
        send_timeout=SEND_SECONDS,
        sep="\n",
    )


async def _events(
    handles: Sequence[RequestHandle], state: AnswerState, form: Format, clock: Clock, include_usage: bool
) -> AsyncIterator[ServerSentEvent]:
    """The events. The last choice's end waits for the request's, whose report it carries."""
    null_usage = {"usage": None} if include_usage else {}
    last: dict[str, Any] | None = None
    events = events_of(handles)
    try:
        for opening in form.openings(state):
            yield _event({**opening, **null_usage})
        async for prompt, event in events:
            choice = state.take(prompt, event)
            clock.saw(event)
            if choice is None:
                continue
            if isinstance(event, SearchStep):
                yield _event(form.heading.chunk(form.chunk_kind, [], trimtab=step_of(event, choice.index)))
            elif isinstance(event, TextPiece):
                yield _event({**form.piece(choice, event), **null_usage})
            elif isinstance(event, ChoiceEnd):
                end = {**form.end(choice), **null_usage}
                if state.ended:
                    last = end
                else:
                    yield _event(end)
        clock.end(state)
        await state.score()
        if last is not None:
            yield _event({**last, "trimtab": form.heading.report(state).model_dump()})
        if include_usage:
            yield _event(form.heading.chunk(form.chunk_kind, [], usage=usage_of(state).model_dump()))
    except ApiError as error:
        clock.note["failed"] = error.code
        yield _event(error.body)
    except Exception:  # noqa: BLE001 (the events have begun: this one tells the client)
        request_id = handles[0].request.id
        _log.exception("request %s: its stream has failed", request_id)
        clock.note["failed"] = "fault"
        yield _event(fault_of_server(request_id).body)
    finally:
        if len(state.usages) < len(handles) and "failed" not in clock.note:
            clock.note["cut"] = True  # the client hung up, or the server ends
        await events.aclose()
    yield ServerSentEvent(DONE)


def fault_of_server(request_id: str) -> ApiError:
    """What a client is told where the server itself is at fault."""
    return ApiError(500, f"a fault of the server, request {request_id}: see its log")


def _event(body: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(body, ensure_ascii=False, separators=(",", ":")))
