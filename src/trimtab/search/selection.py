"""Which of a prompt's candidates go on: the best ones, the best of each group, or the best open ones beside a pool.

Each function takes one prompt's candidates, best first, those that had finished in earlier steps (`held`), and how many
may stay.

    >>> better, worse = (Hypothesis(0, [], [1], "", None, value) for value in (2.0, 1.0))
    >>> best([better, worse], [], 1) == [better]
    True
"""

import math
import re
from collections.abc import Callable, Sequence

from trimtab.search.hypothesis import Hypothesis

Choose = Callable[[Sequence[Hypothesis], Sequence[Hypothesis], int], list[Hypothesis]]


def best(ranked: Sequence[Hypothesis], held: Sequence[Hypothesis], width: int) -> list[Hypothesis]:
    """The first `width`: a finished hypothesis holds its slot and competes (arXiv 2405.19262, algorithm 1)."""
    return list(ranked[:width])


def in_groups(count: int) -> Choose:
    """Of each of `count` groups the best, as many from one as from another, in the order of groups.

    As in diverse beam search (Vijayakumar et al. 2018) beams of unlike groups do not compete, but nothing is
    subtracted from a candidate's value: sampling is what makes the groups differ.
    """

    def choose(ranked: Sequence[Hypothesis], held: Sequence[Hypothesis], width: int) -> list[Hypothesis]:
        members = [[each for each in ranked if each.group == group] for group in range(count)]
        return [each for group in members for each in group[: width // count]]

    return choose


def beside_pool(size: int) -> Choose:
    """The best `width` open ones, and the pool: what finished among the best `width` of its step, best first.

    So a finished hypothesis takes no slot from open ones (as in transformers' beam search). With `size` finished
    hypotheses the prompt is done.
    """

    def choose(ranked: Sequence[Hypothesis], held: Sequence[Hypothesis], width: int) -> list[Hypothesis]:
        old = {id(each) for each in held}
        new = [each for each in ranked if id(each) not in old]
        arrived = {id(each) for each in new[:width] if not each.open}
        pool = [each for each in ranked if id(each) in old | arrived]
        going = [each for each in new if each.open][:width]
        return pool if len(pool) >= size else [*going, *pool]

    return choose


def distinct(ranked: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The candidates without those whose tokens a better one has, too."""
    return list({tuple(each.token_ids): each for each in reversed(ranked)}.values())[::-1]


def by_vote(pattern: str, ranked: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The hypotheses in the order of their answers' weights, those of one answer in their own order.

    An answer is the last match of `pattern` in the text; of a pattern with groups it is the first group that took part
    in the match, and there is no answer where none did. Its weight is the sum of exp(value) over all that give it
    (weighted best-of-N, Li et al. 2023, arXiv 2206.02336; exp of the implicit value is a sample's importance weight for
    the tuned model). What has no answer comes last.
    """
    if not ranked:
        return []
    highest = max(each.value for each in ranked)
    answers = [_answer(pattern, each.text) for each in ranked]
    weights: dict[str, float] = {}
    for answer, each in zip(answers, ranked, strict=True):
        if answer is not None:
            weights[answer] = weights.get(answer, 0.0) + math.exp(each.value - highest)
    given = list(zip(answers, ranked, strict=True))
    given.sort(key=lambda entry: 1.0 if entry[0] is None else -weights[entry[0]])
    return [each for _, each in given]


def _answer(pattern: str, text: str) -> str | None:
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    last = matches[-1]
    groups: tuple[str | None, ...] = last.groups() if last.re.groups else (last.group(),)
    return next((group for group in groups if group is not None), None)
