"""A plain Python function as reward: anything that turns texts into numbers.

Knows nothing of what the function does; its cost is not counted.

    >>> FunctionReward(lambda texts: [text.count("!") for text in texts]).score(["So"], [" good!"])
    [1.0]
"""

from collections.abc import Callable, Sequence

from trimtab.records import PromptInput
from trimtab.rewards.reward import checked_scores, judged_texts


class FunctionReward:
    """The Reward given by `function`, which gets the judged texts and returns one number for each.

    NaN and infinity are allowed: they set the response aside.
    """

    def __init__(self, function: Callable[[Sequence[str]], Sequence[float]]) -> None:
        self._function = function

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in the function's own unit.

        Raises:
            ModelError: the function gave too few or too many numbers, or something that is none.
        """
        texts = judged_texts(prompts, responses)
        return checked_scores(self._function(texts), texts, "the reward function")

    @property
    def flops(self) -> float:
        """Always 0: a function's arithmetic cannot be counted."""
        return 0.0
