"""A plain Python function as reward: anything that turns texts into numbers.

Knows nothing of what the function does; its cost is not counted.

    >>> FunctionReward(lambda texts: [text.count("!") for text in texts]).score(["So"], [" good!"])
    [1.0]
    >>> FunctionReward(lambda prompts, responses: [len(each) for each in responses]).score(["So"], [" good!"])
    [6.0]
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from trimtab.records import PromptInput
from trimtab.rewards.reward import checked_scores, judged_texts


class FunctionReward:
    """The Reward given by `function`, which returns one number for each text.

    A function of one argument gets the judged texts, prompt and response together; one of two gets the prompts (strings
    or lists of messages) and the responses. NaN and infinity are allowed: they set the response aside.
    """

    def __init__(self, function: Callable[..., Sequence[float]]) -> None:
        self._function = function
        self._apart = _arguments(function) == 2

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in the function's own unit.

        Raises:
            ModelError: the function gave too few or too many numbers, or something that is none.
        """
        texts = judged_texts(prompts, responses)
        given = self._function(list(prompts), list(responses)) if self._apart else self._function(texts)
        return checked_scores(given, texts, "the reward function")

    @property
    def flops(self) -> float:
        """Always 0: a function's arithmetic cannot be counted."""
        return 0.0


def _arguments(function: Callable[..., Any]) -> int:
    """How many arguments a function must be given by their places; 1 where it cannot be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some that are not written in Python
        return 1
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in by_place and each.default is each.empty for each in parameters)
