"""Thresholds as rewards: absolute, or relative to the rewards at hand.

Knows nothing of what is done at a threshold.

    >>> reward_at(Threshold(deviations=1), [0.0, 2.0])
    2.0
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.config.pairs import Threshold


def reward_at(threshold: Threshold, rewards: Sequence[float] | NDArray[np.float64]) -> float:
    """The reward that `threshold` means among finite `rewards`, of which there must be one at least.

    Quantiles are interpolated linearly; the standard deviation is that of the rewards themselves (divided by n).
    """
    if threshold.value is not None:
        return threshold.value
    if threshold.quantile is not None:
        return float(np.quantile(rewards, threshold.quantile))
    assert threshold.deviations is not None
    return float(np.mean(rewards) + threshold.deviations * np.std(rewards))
