"""Thresholds as rewards: absolute, or relative to given rewards."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.config.pairs import Threshold


def reward_at(threshold: Threshold, rewards: Sequence[float] | NDArray[np.float64]) -> float:
    """`threshold` as a reward; quantiles and deviations are those of `rewards` (finite numbers, at least one).

    Quantiles are interpolated linearly; the standard deviation is that of the rewards themselves (divided by n).

    >>> reward_at(Threshold(deviations=1), [0.0, 2.0])
    2.0
    """
    if threshold.value is not None:
        return threshold.value
    if threshold.quantile is not None:
        return float(np.quantile(rewards, threshold.quantile))
    assert threshold.deviations is not None
    return float(np.mean(rewards) + threshold.deviations * np.std(rewards))
