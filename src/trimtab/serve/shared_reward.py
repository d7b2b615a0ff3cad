"""The gold reward of what is served: loaded once, for decoders that are judged by it and for clients that ask for it.

>>> from trimtab.rewards.load import load_reward
>>> shared = SharedReward(lambda: load_reward("trimtab.rewards.concise:concise"))
>>> shared().score(["Hi"], [""])
[-5.0]
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial

from trimtab.errors import ModelError, TrimtabError
from trimtab.models.own_thread import own_thread
from trimtab.plugins.user_errors import fault_in
from trimtab.records import PromptInput
from trimtab.rewards.reward import Reward, name_of
from trimtab.rewards.reward_values import scores_of
from trimtab.serve.requests import ShutdownError

RETRY_SECONDS = 60
"""How long a reward that could not be loaded is not tried again: all requests wait for the attempt."""
SHUT_DOWN = "the server has shut down"
_log = logging.getLogger(__name__)


class SharedReward:
    """A reward that is loaded where it is first needed, and used by one thread at a time.

    A server whose clients never ask for rewards does not hold the model. Called, it gives a `Reward` that counts its
    own FLOPs, so what the engine spends on judging candidates and what clients' scores cost are not mixed up.
    """

    def __init__(self, load: Callable[[], Reward]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._reward: Reward | None = None
        self._failure, self._retry_at = "", 0.0
        self._turn = asyncio.Lock()
        self._scoring: Future[list[float]] | None = None
        self._closed = False

    def __call__(self) -> Reward:
        """The reward, with FLOPs of its own.

        Raises:
            TrimtabError: it cannot be loaded, or could not be a moment ago.
        """
        reward = self._reward
        if reward is None:  # else it may be at work, for which nobody has to wait here
            with self._lock:
                reward = self._reward = self._reward or self._try_to_load()
        return _View(reward, self._lock)

    @property
    def loaded(self) -> bool:
        return self._reward is not None

    async def scores(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float | None]:
        """The reward of each prompt and response, None where it has no finite one; scored in a thread of its own.

        Raises:
            ShutdownError: the server has ended.
            TrimtabError: it fails.
        """
        async with self._turn:
            scoring: Future[list[float]] = Future()
            scoring.set_running_or_notify_cancel()  # who waits may go, and the call goes on
            self._scoring = scoring
            if self._closed:
                raise ShutdownError(SHUT_DOWN)
            own_thread(partial(self._scored, prompts, responses), scoring, "trimtab-reward").start()
            scores = await asyncio.wrap_future(scoring)
        return [score if math.isfinite(score) else None for score in scores]

    def close(self) -> None:
        """Refuse all who still wait for scores; may be called from any thread."""
        self._closed = True
        scoring = self._scoring
        if scoring is not None:
            with contextlib.suppress(InvalidStateError):  # it has its scores
                scoring.set_exception(ShutdownError(SHUT_DOWN))

    def _try_to_load(self) -> Reward:
        """The reward, newly loaded; an error is remembered for `RETRY_SECONDS`."""
        if time.monotonic() < self._retry_at:
            raise ModelError(self._failure)
        try:
            return self._load()
        except (Exception, SystemExit) as error:  # whatever a user's code raises
            self._failure = _told(error, "the reward cannot be loaded")
            self._retry_at = time.monotonic() + RETRY_SECONDS
            raise ModelError(self._failure) from error

    def _scored(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        try:
            return self().score(prompts, responses)
        except (Exception, SystemExit) as error:  # whatever a user's code raises
            raise ModelError(_told(error, "the reward failed")) from error


class _View:
    """A `Reward` over a shared one."""

    def __init__(self, reward: Reward, lock: threading.Lock) -> None:
        self.origin = name_of(reward)
        self._reward, self._lock, self._flops = reward, lock, 0.0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        with self._lock:
            before = self._reward.flops
            scores = scores_of(self._reward, prompts, responses)
            self._flops += self._reward.flops - before
        return scores

    @property
    def flops(self) -> float:
        return self._flops


def _told(error: BaseException, words: str) -> str:
    """The message of an error; of one that is not ours, where it was raised, and the log has the traceback."""
    if isinstance(error, TrimtabError):
        return str(error)
    _log.error(words, exc_info=error)
    return f"{words} {fault_in(error)}"
