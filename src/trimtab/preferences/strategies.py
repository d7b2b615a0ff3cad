"""Strategies: which two responses to one prompt make a pair.

A strategy gets the rewards of one prompt's responses in ascending order and gives the positions of those that meet.

    >>> rewards = np.array([-1.0, 0.5, 2.0])
    >>> STRATEGIES["best_worst"].function(rewards, Bounds(), 1, np.random.default_rng(0)).tolist()
    [[0, 2]]
"""

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ConfigurationError, TrimtabError, shown
from trimtab.plugins.registry import Entry, Registry
from trimtab.plugins.user_errors import fault_in

Rewards = NDArray[np.float64]
Positions = NDArray[np.int64]
MAX_LISTED = 100_000  # pairs; where there are more, they are drawn and repeated ones rejected
MAX_ROUNDS = 100  # of drawing and rejecting; after them fewer pairs than were asked for are given
WRITE_UP = "GPT-2 alignment with a BERT classifier (Revelia/GPT2-aligment)"


@dataclasses.dataclass(frozen=True)
class RewardBins:
    """Bins between neighbouring `edges` (shape b + 1, ascending), the last with both its ends; `counts` has shape b."""

    edges: Rewards
    counts: Positions

    def indices(self, rewards: Rewards) -> Positions:
        """The bin of each reward, counted from 0; -1 for a reward outside of all bins."""
        indices = np.searchsorted(self.edges, rewards, side="right") - 1
        indices[rewards == self.edges[-1]] = len(self.counts) - 1
        indices[indices == len(self.counts)] = -1
        return indices


def count_bins(rewards: Rewards, low: float, high: float, number: int) -> RewardBins:
    """`number` bins of equal width from `low` to `high`, which must be above it, with their counts of `rewards`.

    >>> count_bins(np.array([0.1, 0.2, 0.9, 7.0]), low=0.0, high=1.0, number=2).counts.tolist()
    [2, 1]
    """
    edges = np.linspace(low, high, number + 1)
    indices = RewardBins(edges, np.zeros(number, dtype=np.int64)).indices(rewards)
    return RewardBins(edges, np.bincount(indices[indices >= 0], minlength=number))


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

    def draw(self, rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
        """The pairs that the function gives.

        Raises:
            ConfigurationError: a plug-in's function fails, or gives anything but pairs of different positions.
        """
        if self.own:
            return np.asarray(self.function(rewards, bounds, count, rng))
        try:
            pairs = np.asarray(self.function(rewards, bounds, count, rng))
        except (TrimtabError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # whatever a user's code raises
            raise ConfigurationError(f"the strategy {self.origin} failed {fault_in(error)}: mend it") from error
        if pairs.size == 0:
            return np.empty((0, 2), dtype=np.int64)
        shape_fits = pairs.ndim == 2 and pairs.shape[1] == 2 and len(pairs) <= count
        if not shape_fits or not np.isin(pairs, np.arange(len(rewards))).all() or (pairs[:, 0] == pairs[:, 1]).any():
            raise ConfigurationError(
                f"the strategy {self.origin} returned {shown(pairs.tolist())} for {len(rewards)} rewards: return at "
                f"most {count} pairs of two different positions, counted from 0"
            )
        return pairs.astype(np.int64)


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
    """Two responses, drawn so that all bins are equally likely, and within a bin all responses."""
    assert bounds.bins is not None
    bins = bounds.bins.indices(rewards)
    inside = np.flatnonzero(bins >= 0)
    # responses of another split may fall into a bin that no training response fell into
    return inside[_draw_weighted(1.0 / np.maximum(bounds.bins.counts[bins[inside]], 1), count, rng)]


def rarer_wins(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """Two responses from bins that are not equally common; the one from the rarer bin stands second, and wins."""
    assert bounds.bins is not None
    bins = bounds.bins.indices(rewards)
    inside = np.flatnonzero(bins >= 0)
    commonness = bounds.bins.counts[bins[inside]]
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
    """Draw distinct pairs i < j with probabilities in proportion to `weights[i] * weights[j]`."""
    size = len(weights)
    count = min(count, size * (size - 1) // 2)
    if size * (size - 1) // 2 <= MAX_LISTED:
        pairs = np.stack(np.triu_indices(size, k=1), axis=1)
        products = weights[pairs].prod(axis=1)
        return pairs[rng.choice(len(pairs), count, replace=False, p=products / products.sum())] if count else pairs
    pairs = np.empty(0, dtype=np.int64)  # each as one number, in the order in which they were drawn
    for _ in range(MAX_ROUNDS):
        drawn = np.sort(rng.choice(size, (2 * (count - len(pairs)) + 1, 2), p=weights / weights.sum()), axis=1)
        drawn = drawn[drawn[:, 0] < drawn[:, 1]]
        pairs = np.concatenate([pairs, drawn[:, 0] * size + drawn[:, 1]])
        pairs = pairs[np.sort(np.unique(pairs, return_index=True)[1])][:count]
        if len(pairs) == count:
            break
    return np.stack([pairs // size, pairs % size], axis=1)


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
        paper="Yuan et al. 2024 (Self-Rewarding Language Models), arXiv 2401.10020",
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
