"""Which of a prompt's candidates go on: the best, the best of each group, or the best open ones beside a pool.

A `Choose` gets one prompt's candidates, best first, those of them that had finished in earlier steps, and how many may
stay.
"""

import math
import re
from collections.abc import Callable, Sequence

from trimtab.search.hypothesis import Beam, Hypothesis

Choose = Callable[[Sequence[Beam], Sequence[Beam], int], list[Beam]]


def best(ranked: Sequence[Beam], finished: Sequence[Beam], width: int) -> list[Beam]:
    """The first `width`: a finished hypothesis holds its slot and competes (arXiv 2405.19262, algorithm 1)."""
    return list(ranked[:width])


def in_groups(count: int) -> Choose:
    """Of each of `count` groups the best, equally many from each, in the order of the groups.

    As in diverse beam search (Vijayakumar et al. 2018) beams of different groups do not compete, but nothing is
    subtracted from a candidate's value: sampling is what makes the groups differ.
    """

    def choose(ranked: Sequence[Beam], finished: Sequence[Beam], width: int) -> list[Beam]:
        groups = [[beam for beam in ranked if beam.group == group] for group in range(count)]
        return [beam for group in groups for beam in group[: width // count]]

    return choose


def beside_pool(size: int) -> Choose:
    """The best `width` open beams, and the pool: what finished among the best `width` of its step, best first.

    So a finished hypothesis takes no slot from open ones (as in transformers' beam search). With `size` finished
    hypotheses the prompt is done.
    """

    def choose(ranked: Sequence[Beam], finished: Sequence[Beam], width: int) -> list[Beam]:
        pooled = {id(beam) for beam in finished}
        new = [beam for beam in ranked if id(beam) not in pooled]
        pooled |= {id(beam) for beam in new[:width] if not beam.open}
        pool = [beam for beam in ranked if id(beam) in pooled]
        return pool if len(pool) >= size else [*[beam for beam in new if beam.open][:width], *pool]

    return choose


def distinct(ranked: Sequence[Beam]) -> list[Beam]:
    """The candidates without those whose tokens are those of a better one."""
    return list({tuple(beam.hypothesis.token_ids): beam for beam in reversed(ranked)}.values())[::-1]


def by_vote(pattern: str, ranked: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The hypotheses in the order of their answers' weights; those of one answer keep their order.

    An answer is the last match of `pattern` in the text; of a pattern with groups it is the first group that took part
    in the match, and there is no answer where none did. Its weight is the sum of exp(value) over all that give it
    (weighted best-of-N, Li et al. 2023, arXiv 2206.02336; exp of the implicit value is a sample's importance weight for
    the tuned model). Hypotheses without an answer come last.
    """
    highest = max((hypothesis.value for hypothesis in ranked), default=0.0)
    answers = [_answer(pattern, hypothesis.text) for hypothesis in ranked]
    weights: dict[str | None, float] = {}
    for answer, hypothesis in zip(answers, ranked, strict=True):
        weights[answer] = weights.get(answer, 0.0) + math.exp(hypothesis.value - highest)
    weights[None] = -1.0
    order = sorted(range(len(ranked)), key=lambda index: -weights[answers[index]])
    return [ranked[index] for index in order]


def _answer(pattern: str, text: str) -> str | None:
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    groups: tuple[str | None, ...] = matches[-1].groups() or (matches[-1].group(),)
    return next((group for group in groups if group is not None), None)
