"""Rewards in bins of equal width, and how many of them fall into each: what strategies for a reward's density need.

Knows nothing of pairs.

    >>> bins = count_bins(np.array([0.1, 0.2, 0.9, 7.0]), low=0.0, high=1.0, number=2)
    >>> bins.counts.tolist(), bins.places(np.array([0.15, 1.0, -3.0])).tolist()
    ([2, 1], [0, 1, -1])
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float64]
Positions = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class RewardBins:
    """Bins between neighbouring `edges` (shape b + 1, ascending), the last with both its ends; `counts` has shape b."""

    edges: Rewards
    counts: Positions

    def places(self, rewards: Rewards) -> Positions:
        """The bin of each reward, counted from 0; -1 for one that lies in none."""
        found = np.searchsorted(self.edges, rewards, side="right") - 1
        found[rewards == self.edges[-1]] = len(self.counts) - 1
        found[found == len(self.counts)] = -1
        return found


def count_bins(rewards: Rewards, low: float, high: float, number: int) -> RewardBins:
    """`number` bins of equal width from `low` to `high`, which must be above it, with their counts of `rewards`."""
    edges = np.linspace(low, high, number + 1)
    bins = RewardBins(edges, np.zeros(number, dtype=np.int64))
    places = bins.places(rewards)
    return RewardBins(edges, np.bincount(places[places >= 0], minlength=number))
