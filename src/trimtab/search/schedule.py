"""What each step of a search does: how many tokens, how many successors a beam, how many hypotheses stay.

Knows nothing of models or values.

    >>> stages = beam_stages(width=4, successors=4, chunk=5)
    >>> next(stages).successors, next(stages).successors
    (16, 4)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.config.search import EarlyRejection


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: each open beam grows by up to `tokens` tokens in `successors` ways, and `width` hypotheses stay.

    With `same_slots` a beam goes on with the random numbers that it has had so far.
    """

    tokens: int
    successors: int
    width: int
    same_slots: bool = False


def beam_stages(width: int, successors: int, chunk: int) -> Iterator[Stage]:
    """Chunk-level beam search: the first step has one beam a prompt, which stands in for all `width` of them."""
    yield Stage(chunk, width * successors, width)
    while True:
        yield Stage(chunk, successors, width)


def rejection_stages(reject: EarlyRejection, samples: int, max_new_tokens: int) -> Iterator[Stage]:
    """Best-of-N whose worst share is dropped at given lengths (speculative rejection, arXiv 2410.20290).

    What stays is, token for token, what best-of-N would have sampled: a sample keeps its random numbers.
    """
    ends = [*(length for length in reject.at if length < max_new_tokens), max_new_tokens]
    left, begin = samples, 0
    for number, end in enumerate(ends):
        stay = max(1, math.ceil(left * (1 - reject.share) - 1e-9)) if end < max_new_tokens else left
        yield Stage(end - begin, 1 if number else samples, stay, same_slots=number > 0)
        left, begin = stay, end
