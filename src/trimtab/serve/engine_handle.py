"""The reader's end of a request: events in order, for threads and for asyncio."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from trimtab.serve.requests import Event, GenerationRequest, RequestEnd, RequestFailed


class Handle:
    """A `RequestHandle`. The engine's thread calls `put`; `cancelled` tells it that nobody reads any more."""

    def __init__(self, request: GenerationRequest, wake: Callable[[], None]) -> None:
        self.request = request
        self.cancelled = False
        self._wake = wake
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._notify: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        self.cancelled = True
        self._wake()

    def put(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()
            self._notify()

    def __iter__(self) -> Iterator[Event]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._events))
                event = self._events.popleft()
            yield event
            if isinstance(event, RequestEnd | RequestFailed):
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._notify = lambda: _tell(loop, arrived)
        while True:
            with self._changed:
                events = list(self._events)
                self._events.clear()
                arrived.clear()
            for event in events:
                yield event
                if isinstance(event, RequestEnd | RequestFailed):
                    return
            await arrived.wait()


def _tell(loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the reader is gone
        loop.call_soon_threadsafe(arrived.set)
