"""The gold reward of what is served: loaded once, for decoders that are judged by it and for clients that ask for it.

>>> from trimtab.rewards.load import load_reward
>>> shared = SharedReward(lambda: load_reward("trimtab.rewards.concise:concise"))
>>> shared().score(["Hi"], [""])
[-5.0]
"""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from trimtab.models.own_thread import in_own_thread
from trimtab.records import PromptInput
from trimtab.rewards.reward import Reward, name_of


class SharedReward:
    """A reward that is loaded where it is first needed, and used by one thread at a time.

    A server whose clients never ask for rewards does not hold the model. Called, it gives a `Reward` that counts its
    own FLOPs, so what the engine spends on judging candidates and what clients' scores cost are not mixed up.
    """

    def __init__(self, load: Callable[[], Reward]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._reward: Reward | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trimtab-reward")

    def __call__(self) -> Reward:
        """The reward, with FLOPs of its own.

        Raises:
            TrimtabError: it cannot be loaded.
        """
        reward = self._reward
        if reward is None:  # else it may be at work, for which nobody has to wait here
            with self._lock:
                reward = self._reward = self._reward or self._load()
        return _View(reward, self._lock)

    @property
    def loaded(self) -> bool:
        return self._reward is not None

    async def scores(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float | None]:
        """The reward of each prompt and response, None where it has no finite one; scored in a thread of its own.

        Raises:
            TrimtabError: it fails.
        """
        score = partial(self().score, prompts, responses)
        scoring = asyncio.get_running_loop().run_in_executor(self._thread, in_own_thread, score)
        return [score if math.isfinite(score) else None for score in await scoring]


class _View:
    """A `Reward` over a shared one."""

    def __init__(self, reward: Reward, lock: threading.Lock) -> None:
        self.origin = name_of(reward)
        self._reward, self._lock, self._flops = reward, lock, 0.0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        with self._lock:
            before = self._reward.flops
            scores = self._reward.score(prompts, responses)
            self._flops += self._reward.flops - before
        return scores

    @property
    def flops(self) -> float:
        return self._flops
