"""A reward behind HTTP, in whatever language or place.

Asked is `{"prompts": [...], "responses": [...]}`, two lists of one length; a prompt is a string or a list of
`{"role": ..., "content": ...}`. Answered is `{"rewards": [...]}`, a number for each, or null where there is none. Its
cost is not counted.

    >>> EndpointReward(Endpoint("http://127.0.0.1:8000/score"), 64).score(["Hi"], ["Hello"])    # doctest: +SKIP
    [0.73]
"""

import contextlib
import math
from collections.abc import Sequence

from trimtab.endpoint import Endpoint
from trimtab.errors import EndpointError
from trimtab.messages import shown
from trimtab.records import PromptInput


class EndpointReward:
    """The Reward that a service gives, asked for `batch_size` responses at a time."""

    def __init__(self, endpoint: Endpoint, batch_size: int) -> None:
        self._endpoint = endpoint
        self._batch_size = batch_size

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in the service's own unit.

        Raises:
            EndpointError: the service does not answer, or with something else than one reward for each.
        """
        rewards: list[float] = []
        for start in range(0, len(responses), self._batch_size):
            asked = list(responses[start : start + self._batch_size])
            body = {"prompts": list(prompts[start : start + self._batch_size]), "responses": asked}
            answered = self._endpoint.post(body).get("rewards")
            if not isinstance(answered, list) or len(answered) != len(asked):
                raise EndpointError(
                    f"{self._endpoint.url} answers {str(answered)[:60]} for {len(asked)} responses: it must give "
                    '{"rewards": [...]} with one number or null for each'
                )
            rewards += [self._number(reward, text) for reward, text in zip(answered, asked, strict=True)]
        return rewards

    def _number(self, reward: object, text: str) -> float:
        """A reward as a float, NaN for null."""
        if reward is None:
            return math.nan
        if isinstance(reward, int | float) and not isinstance(reward, bool):
            with contextlib.suppress(OverflowError):
                return float(reward)
        raise EndpointError(
            f"{self._endpoint.url} gave {shown(reward)} for {text[:60]!r}: a reward must be a number, or null"
        )

    @property
    def flops(self) -> float:
        """Always 0: what a service computes is not known."""
        return 0.0
