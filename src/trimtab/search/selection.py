"""Which of a prompt's candidates go on, and in which order a vote puts answers. Candidates are given best first."""

import math
import re
from collections.abc import Sequence

from trimtab.search.hypothesis import Beam, Hypothesis


def best_of_groups(ranked: Sequence[Beam], groups: int, width: int) -> list[Beam]:
    """The best of each of `groups` groups, equally many from each, in the order of the groups.

    As in diverse beam search (Vijayakumar et al. 2018) beams of different groups do not compete, but nothing is
    subtracted from a candidate's value: sampling is what makes the groups differ.
    """
    members = [[beam for beam in ranked if beam.group == group] for group in range(groups)]
    return [beam for group in members for beam in group[: width // groups]]


def beside_pool(ranked: Sequence[Beam], finished: Sequence[Beam], size: int, width: int) -> list[Beam]:
    """The best `width` open beams, and the pool: what finished among the best `width` of its step, best first.

    `finished` are those of earlier steps. A finished hypothesis takes no slot from open ones (as in transformers' beam
    search). With `size` finished hypotheses the prompt is done.
    """
    pooled = {id(beam) for beam in finished}
    new = [beam for beam in ranked if id(beam) not in pooled]
    pooled |= {id(beam) for beam in new[:width] if not beam.open}
    pool = [beam for beam in ranked if id(beam) in pooled]
    return pool if len(pool) >= size else [*[beam for beam in new if beam.open][:width], *pool]


def distinct(ranked: Sequence[Beam]) -> list[Beam]:
    """The candidates without those that have the same tokens as a better one."""
    return list({tuple(beam.hypothesis.token_ids): beam for beam in reversed(ranked)}.values())[::-1]


def by_vote(pattern: str, ranked: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The hypotheses sorted by the weight of their answer; those with the same answer keep their order.

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
