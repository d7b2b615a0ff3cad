"""An example of a function as gold reward: it prefers short answers that end as a sentence does.

It sees form alone: a wrong answer of the right length is worth as much as a right one.

    >>> concise(["Which trees?"], ["Oaks, " * 19 + "elms."])
    [1.0]
"""

import math
from collections.abc import Sequence

from trimtab.records import PromptInput

WORDS = 20
ENDS = (".", "!", "?", '."', '!"', '?"', ".)", "”")
EMPTY = -5.0


def concise(prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
    """1 for an answer of `WORDS` words that ends as a sentence does.

    At other lengths it loses |log(words / WORDS)|: 0.69 at half or twice as many. One that stops within a sentence
    loses 1. An empty one is worth `EMPTY`.
    """
    return [_worth(response) for response in responses]


def _worth(response: str) -> float:
    words = len(response.split())
    if not words:
        return EMPTY
    return float(response.rstrip().endswith(ENDS)) - abs(math.log(words / WORDS))
