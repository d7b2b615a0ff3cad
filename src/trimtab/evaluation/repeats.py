"""Estimates over repeated trainings: t-intervals over seeds, and a bootstrap over seeds and responses at once.

docs/study.md says what the intervals mean.

    >>> over_seeds([1.0, 2.0, 3.0], confidence=0.95).std
    1.0
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from trimtab.evaluation.metrics import Estimate

Array = NDArray[np.float64]
REPLICATES_AT_ONCE = 200  # replicates that are computed together: weights of 200 x 5,000 responses take 8 MB


class OverSeeds(NamedTuple):
    """A mean over seeds, the standard deviation between them, and the t-interval; None with fewer than two seeds."""

    mean: float
    std: float | None
    low: float | None
    high: float | None


def over_seeds(values: Sequence[float], *, confidence: float) -> OverSeeds:
    """mean +- t s / sqrt(k): Student's interval of the mean of k seeds (Student 1908).

    s is the standard deviation with k - 1 in the denominator, t the quantile (1 + c) / 2 of Student's distribution
    with k - 1 degrees of freedom: 12.71 for two seeds, 4.30 for three and 2.78 for five at c = 0.95.
    """
    count, mean = len(values), math.fsum(values) / len(values)
    if count < 2:
        return OverSeeds(mean, None, None, None)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * std / math.sqrt(count)
    return OverSeeds(mean, std, mean - half, mean + half)


class Statistic(Protocol):
    """A statistic of a set of responses, in which each response counts as often as its weight says."""

    def of(self, weights: Array) -> Array:
        """The statistic for each row of `weights` (replicates x responses)."""


@dataclass(frozen=True)
class Ratio:
    """sum_i w_i a_i / sum_i w_i b_i; with b = 1 a mean. Where the denominator is 0 it is NaN."""

    top: Array
    bottom: Array

    def of(self, weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio: Array = (weights @ self.top) / (weights @ self.bottom)
        return ratio


@dataclass(frozen=True)
class Entropy:
    """H = -sum_t p_t ln p_t in nats over the tokens of all responses, 0 without any; `counts`: responses x tokens."""

    counts: sparse.csr_array

    def of(self, weights: Array) -> Array:
        counts = weights @ self.counts
        totals = counts.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(counts > 0, counts * np.log(counts), 0.0).sum(axis=1)
            entropy: Array = np.where(totals > 0, np.log(totals) - terms / totals, 0.0)
        return np.maximum(entropy, 0.0)


def token_counts(token_lists: Sequence[Sequence[int]]) -> sparse.csr_array:
    """Responses x distinct tokens: how often each response has each token that any of them has."""
    rows = np.repeat(np.arange(len(token_lists)), [len(tokens) for tokens in token_lists])
    flat = np.array([token for tokens in token_lists for token in tokens], dtype=np.int64)
    names, columns = np.unique(flat, return_inverse=True)
    return sparse.csr_array((np.ones(len(flat)), (rows, columns)), shape=(len(token_lists), len(names)))


@dataclass(frozen=True)
class Repetition:
    """What one seed gave: its statistics by name, the number of responses, and what they answer.

    `prompts` identifies the list of prompts: two repetitions with the same one answer the same prompts in the same
    order, response for response.
    """

    seed: str
    prompts: str
    responses: int
    statistics: Mapping[str, Statistic]

    def values(self) -> dict[str, float]:
        """The statistics as they were measured."""
        plain = np.ones((1, self.responses))
        return {name: float(statistic.of(plain)[0]) for name, statistic in self.statistics.items()}


def replicates(repetitions: Sequence[Repetition], *, resamples: int, seed: int) -> dict[str, Array]:
    """Bootstrap replicates of each statistic's mean over seeds.

    Each replicate draws responses with replacement, and k - 1 of the k seeds with replacement. k - 1 draws of k give
    the mean over seeds exactly its estimated variance s^2 / k, where k draws would give (k - 1) / k of it (McCarthy &
    Snowden 1985); a single seed is kept.

    Draws depend on `seed`, on the prompts and on the names of the seeds alone. So two sets of repetitions on the same
    prompts draw the same responses in each replicate, and two with the same seeds draw the same seeds: their
    difference, replicate by replicate, is paired. Where prompts or seeds differ, draws are independent.
    """
    names = list(repetitions[0].statistics)
    per_seed = {name: np.empty((len(repetitions), resamples)) for name in names}
    for index, repetition in enumerate(repetitions):
        rng = _generator(seed, "responses", repetition.prompts)
        count = repetition.responses
        for start in range(0, resamples, REPLICATES_AT_ONCE):
            stop = min(start + REPLICATES_AT_ONCE, resamples)
            weights = rng.multinomial(count, np.full(count, 1 / count), size=stop - start).astype(np.float64)
            for name in names:
                per_seed[name][index, start:stop] = repetition.statistics[name].of(weights)
    seeds = len(repetitions)
    rng = _generator(seed, "seeds", " ".join(repetition.seed for repetition in repetitions))
    drawn = rng.integers(seeds, size=(max(seeds - 1, 1), resamples))
    return {name: np.take_along_axis(values, drawn, axis=0).mean(axis=0) for name, values in per_seed.items()}


def difference(
    ours: Sequence[float], theirs: Sequence[float], our_replicates: Array, their_replicates: Array, *, confidence: float
) -> Estimate | None:
    """The difference of two means over seeds, with the percentile interval of its replicates.

    None where the difference, or more than half of its replicates, is not finite.
    """
    change = our_replicates - their_replicates
    mean = float(np.mean(ours) - np.mean(theirs))
    finite = change[np.isfinite(change)]
    if not math.isfinite(mean) or len(finite) < len(change) / 2:
        return None
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(mean, float(low), float(high))


def _generator(seed: int, kind: str, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{kind} {name}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
