"""An answer as it grows out of the engine's events, for one HTTP request of one or several prompts."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from trimtab.serve.api_errors import ApiError
from trimtab.serve.requests import (
    ChoiceEnd,
    Event,
    RequestEnd,
    RequestFailed,
    RequestHandle,
    ShutdownError,
    TextPiece,
    Token,
    Usage,
)

Scorer: TypeAlias = Callable[[Sequence[str]], Awaitable[list[float | None]]]
"""Gives the rewards of all choices, given their texts; raises ApiError where it cannot."""


@dataclass
class Choice:
    """A choice so far. `tokens` and `text` are those of the response, `echoed` and `echo` those of the prompt."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    echo: str = ""
    echoed: list[Token] = field(default_factory=list)
    end: ChoiceEnd | None = None


class AnswerState:
    """The choices of `prompts` prompts, `n` of each, in order; choice i of prompt p has index p·n + i.

    `scorer` gives their rewards, where the request asks for them; `rewards` holds them after `score`.
    """

    def __init__(self, prompts: int, n: int, scorer: Scorer | None = None) -> None:
        self.choices = [Choice(index) for index in range(prompts * n)]
        self.usages: list[Usage] = []
        self.rewards: list[float | None] | None = None
        self._n, self._scorer = n, scorer

    def take(self, prompt: int, event: Event) -> Choice | None:
        """Add an event of one prompt's request; the choice that it belongs to, if it belongs to one.

        Raises:
            ApiError: the request has failed.
        """
        if isinstance(event, RequestFailed):
            raise failure(event)
        if isinstance(event, RequestEnd):
            self.usages.append(event.usage)
            return None
        choice = self.choices[prompt * self._n + event.choice]
        if isinstance(event, ChoiceEnd):
            choice.end = event
        elif isinstance(event, TextPiece) and event.prompt:
            choice.echo += event.text
            choice.echoed += event.tokens
        elif isinstance(event, TextPiece):
            choice.text += event.text
            choice.tokens += event.tokens
        return choice

    async def score(self) -> None:
        """Have the choices scored, once all have ended.

        Raises:
            ApiError: the reward fails.
        """
        if self._scorer is not None:
            self.rewards = await self._scorer([choice.text for choice in self.choices])

    @property
    def ended(self) -> bool:
        """Whether every choice has all its text."""
        return all(choice.end is not None for choice in self.choices)

    @property
    def usage(self) -> Usage:
        """What all prompts have cost."""
        return Usage(
            prompt=sum(usage.prompt for usage in self.usages),
            returned=sum(usage.returned for usage in self.usages),
            drawn=sum(usage.drawn for usage in self.usages),
            guide=sum(usage.guide for usage in self.usages),
            flops=sum(usage.flops for usage in self.usages),
        )


def failure(event: RequestFailed) -> ApiError:
    """What a client is told of a request that was taken on and has no answer."""
    if isinstance(event.error, ShutdownError):
        return ApiError(503, str(event.error), code=event.error.reason)
    return ApiError(500, str(event.error), code="request_failed")


async def events_of(handles: Sequence[RequestHandle]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several requests as they come, each with its request's index; ends when all have ended.

    However it is left, requests that have not ended are cancelled.
    """
    queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()

    async def pass_on(index: int, handle: RequestHandle) -> None:
        try:
            async for event in handle:
                queue.put_nowait((index, event))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(pass_on(index, handle)) for index, handle in enumerate(handles)]
    try:
        left = len(tasks)
        while left:
            entry = await queue.get()
            if entry is None:
                left -= 1
            else:
                yield entry
        for task in tasks:
            await task  # an unexpected error is raised here
    finally:
        for handle, task in zip(handles, tasks, strict=True):
            handle.cancel()
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
