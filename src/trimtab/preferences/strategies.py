"""Strategies: which two responses to one prompt make a pair.

A strategy gets the rewards of one prompt's responses in ascending order and gives the positions of those that meet.

    >>> rewards = np.array([-1.0, 0.5, 2.0])
    >>> STRATEGIES["best_worst"].function(rewards, Bounds(), 1, np.random.default_rng(0)).tolist()
    [[0, 2]]
"""

import dataclasses
from typing import Literal

import numpy as np

from trimtab.plugins.registry import Entry, Registry
from trimtab.preferences.bins import Positions, RewardBins, Rewards

MAX_LISTED = 100_000  # pairs; where there are more, they are drawn and repeated ones rejected
MAX_ROUNDS = 100  # of drawing and rejecting; after them fewer pairs than were asked for are given
WRITE_UP = "GPT-2 alignment with a BERT classifier (Revelia/GPT2-aligment)"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The configured thresholds as rewards: `margin` is a difference of two rewards, `threshold` is a reward, `bins`
    count the rewards of all training responses."""

    margin: float = 0.0
    threshold: float = 0.0
    bins: RewardBins | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy(Entry):
    """What is known of one strategy.

    `function` takes the finite rewards of one prompt's distinct responses in ascending order (shape n), the bounds,
    the number of pairs wanted and a generator. It gives at most that many distinct pairs of positions, the lower
    reward first (shape k x 2). `words` complete "pairs of its own samples (...)".

    `uses` names the bounds that it reads. Where it `decides_winner`, the second of each pair wins, and
    `pairs.labels` has no effect.
    """

    uses: tuple[Literal["margin", "threshold", "bins"], ...] = ()
    decides_winner: bool = False


STRATEGIES: Registry[Strategy] = Registry("strategy", arguments=("rewards", "bounds", "count", "rng"))


def random(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """Any two responses."""
    return _draw(np.arange(1, len(rewards) + 1), len(rewards), count, rng)


def margin(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """Two responses whose rewards differ by more than `bounds.margin`."""
    # Never a response with itself, which a margin that rounding swallows would allow.
    first = np.maximum(np.searchsorted(rewards, rewards + bounds.margin, side="right"), np.arange(1, len(rewards) + 1))
    return _draw(first, len(rewards), count, rng)


def straddle(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """One response strictly below `bounds.threshold` and one strictly above."""
    below = np.searchsorted(rewards, bounds.threshold, side="left")
    above = np.searchsorted(rewards, bounds.threshold, side="right")
    return _draw(np.full(below, above), len(rewards), count, rng)


def best_worst(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """The best against the worst, then the second best against the second worst, while their rewards differ."""
    low = np.arange(min(count, len(rewards) // 2))
    pairs = np.stack([low, len(rewards) - 1 - low], axis=1)
    return pairs[rewards[pairs[:, 0]] < rewards[pairs[:, 1]]]


def flat(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """Two responses, each drawn so that every bin is as likely as any other, and in a bin every response."""
    assert bounds.bins is not None
    places = bounds.bins.places(rewards)
    inside = np.flatnonzero(places >= 0)
    # a bin that no training response fell into can be met among the responses of another split
    return inside[_draw_weighted(1.0 / np.maximum(bounds.bins.counts[places[inside]], 1), count, rng)]


def rarer_wins(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """Two responses from bins that are not equally common; the one from the rarer bin stands second, and wins."""
    assert bounds.bins is not None
    places = bounds.bins.places(rewards)
    inside = np.flatnonzero(places >= 0)
    commonness = bounds.bins.counts[places[inside]]
    order = np.argsort(-commonness, kind="stable")
    rarer = np.searchsorted(-commonness[order], -commonness[order], side="right")
    return inside[order][_draw(rarer, len(order), count, rng)]


def _draw(first: Positions, size: int, count: int, rng: np.random.Generator) -> Positions:
    """Draw distinct pairs (i, j), uniform among all with `first[i] <= j < size`, without listing them.

    The allowed pairs are numbered row by row; numbers are drawn and turned back into rows and columns.
    """
    ends = np.cumsum(size - first)
    allowed = int(ends[-1]) if len(ends) else 0
    numbers = rng.choice(allowed, min(count, allowed), replace=False) if allowed else np.empty(0, dtype=np.int64)
    rows = np.searchsorted(ends, numbers, side="right")
    starts = np.concatenate([[0], ends])[rows]
    columns = numbers - starts + np.append(first, size)[rows]
    return np.stack([rows, columns], axis=1)


def _draw_weighted(weights: Rewards, count: int, rng: np.random.Generator) -> Positions:
    """Draw distinct pairs i < j, each with a probability that goes with `weights[i] * weights[j]`."""
    size = len(weights)
    count = min(count, size * (size - 1) // 2)
    if size * (size - 1) // 2 <= MAX_LISTED:
        pairs = np.stack(np.triu_indices(size, k=1), axis=1)
        products = weights[pairs].prod(axis=1)
        return pairs[rng.choice(len(pairs), count, replace=False, p=products / products.sum())] if count else pairs
    found = np.empty(0, dtype=np.int64)  # pairs as single numbers, in the order in which they were drawn
    for _ in range(MAX_ROUNDS):
        drawn = np.sort(rng.choice(size, (2 * (count - len(found)) + 1, 2), p=weights / weights.sum()), axis=1)
        drawn = drawn[drawn[:, 0] < drawn[:, 1]]
        found = np.concatenate([found, drawn[:, 0] * size + drawn[:, 1]])
        found = found[np.sort(np.unique(found, return_index=True)[1])][:count]
        if len(found) == count:
            break
    return np.stack([found // size, found % size], axis=1)


for entry in (
    Strategy(
        name="random",
        function=random,
        words="any two samples",
        paper=WRITE_UP,
        limits="The rewards of a pair may hardly differ.",
    ),
    Strategy(
        name="margin",
        function=margin,
        uses=("margin",),
        words="two samples whose rewards differ by a margin",
        paper=WRITE_UP,
        limits="A prompt whose rewards all lie within the margin gives no pair.",
    ),
    Strategy(
        name="straddle",
        function=straddle,
        uses=("threshold",),
        words="one sample below and one above a threshold",
        paper=WRITE_UP,
        limits="A prompt whose rewards all lie on one side of the threshold gives no pair.",
    ),
    Strategy(
        name="best_worst",
        function=best_worst,
        words="the best and the worst of a prompt's samples",
        paper="Self-Rewarding Language Models (Yuan et al. 2024, arXiv 2401.10020)",
        limits="A prompt gives at most half as many pairs as it has samples.",
    ),
    Strategy(
        name="flat",
        function=flat,
        uses=("bins",),
        words="two samples drawn so that rewards are evenly spread",
        paper=f"left open by {WRITE_UP}",
        limits="Samples beyond pairs.low and pairs.high are not used; those of rare rewards are used often.",
    ),
    Strategy(
        name="rarer_wins",
        function=rarer_wins,
        uses=("bins",),
        decides_winner=True,
        words="two samples of which the one with the rarer reward wins",
        paper=f"left open by {WRITE_UP}",
        limits="It flattens the density of rewards and does not raise them. Samples beyond pairs.low and pairs.high "
        "are not used.",
    ),
):
    STRATEGIES.add(entry)
