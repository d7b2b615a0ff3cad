"""The measures, as pure functions on arrays and lists of tokens.

Randomness is a passed generator, so that a result depends on the values and the generator's state alone.

    >>> headroom(gain=0.5, best_gain=2.0)
    0.25
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_RESAMPLED = 1_000_000  # values held at a time, so that a large evaluation does not need gigabytes


class Estimate(NamedTuple):
    """A mean with the two ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, *, resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13).

    Draw `resamples` times n values with replacement and take the mean of each draw; the ends are those means'
    quantiles (1 - c) / 2 and (1 + c) / 2. Two calls with equal n and equal generator states draw the same places.

    Args:
        values: one dimension, n >= 1 finite numbers.
        confidence: c, between 0 and 1.

    Raises:
        ValueError: `values` is empty, has more than one dimension, or holds a number that is not finite.
    """
    array = _finite(values)
    batch = max(1, MAX_RESAMPLED // len(array))
    means = np.concatenate(
        [
            array[rng.integers(len(array), size=(min(batch, resamples - start), len(array)))].mean(axis=1)
            for start in range(0, resamples, batch)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mean_estimate(values: ArrayLike, *, resamples: int, confidence: float, rng: np.random.Generator) -> Estimate:
    """The mean of `values` and its `bootstrap_interval`."""
    low, high = bootstrap_interval(values, resamples=resamples, confidence=confidence, rng=rng)
    return Estimate(float(_finite(values).mean()), low, high)


def paired_gain(
    values: ArrayLike, reference: ArrayLike, *, resamples: int, confidence: float, rng: np.random.Generator
) -> Estimate:
    """mean_i(values_i - reference_i) with the bootstrap interval of the differences.

    Prompts differ far more than decoders do, so differences on the same prompt give a much tighter interval than two
    separate means.

    Raises:
        ValueError: the two differ in length, or are no arguments for `bootstrap_interval`.
    """
    ours, theirs = _finite(values), _finite(reference)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired values must match: {ours.shape[0]} values, {theirs.shape[0]} of the reference")
    return mean_estimate(ours - theirs, resamples=resamples, confidence=confidence, rng=rng)


def rate_difference(
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    *,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> Estimate:
    """sum_i s_i1 / sum_i n_i1 - sum_i s_i2 / sum_i n_i2, and its percentile bootstrap over prompts i.

    Args:
        sums: s [prompts, 2], such as log-probabilities of two decoders' responses in nats.
        counts: n [prompts, 2], such as their tokens.
    """
    size = len(sums)
    columns = np.hstack([sums, counts])
    totals = [columns.sum(axis=0, keepdims=True)]
    batch = max(1, MAX_RESAMPLED // size)
    for start in range(0, resamples, batch):  # how often each prompt is drawn
        times = rng.multinomial(size, np.full(size, 1 / size), size=min(batch, resamples - start))
        totals.append(times @ columns)
    table = np.vstack(totals)
    rates = table[:, :2] / np.maximum(table[:, 2:], 1)
    found = rates[:, 0] - rates[:, 1]
    low, high = np.quantile(found[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(found[0]), float(low), float(high))


def headroom(gain: float, best_gain: float) -> float | None:
    """gain / best_gain: the share of the gain that is reached by picking the best sample by the gold reward itself.

    None where `best_gain` is not above zero.
    """
    return gain / best_gain if best_gain > 0 else None


def share_positive(values: ArrayLike) -> float:
    """The share of values above zero, from 0 to 1."""
    return float((_finite(values) > 0).mean())


def share_below(values: ArrayLike, threshold: float) -> float:
    """The share of values below the threshold, from 0 to 1; with a reward of tone, one minus the tone's accuracy."""
    return float((_finite(values) < threshold).mean())


def standard_deviation(values: ArrayLike) -> float | None:
    """s = sqrt(sum_i (v_i - mean)^2 / (n - 1)), of the values themselves and not of their mean; None for one value."""
    array = _finite(values)
    return float(array.std(ddof=1)) if len(array) > 1 else None


def token_entropy(token_lists: Sequence[Sequence[int]]) -> float:
    """H = -sum_t p_t ln p_t in nats, p_t = share of token t among all tokens of all responses; 0 without tokens.

    The plug-in estimate grows with the number of tokens: compare only where counts are equal (`equal_counts`).
    """
    counts = np.array(sorted(Counter(itertools.chain.from_iterable(token_lists)).values()), dtype=float)
    if len(counts) == 0:
        return 0.0
    shares = counts / counts.sum()
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def distinct_n(token_lists: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams / all n-grams (Li et al. 2016); none spans two responses. 0 where there is no n-gram."""
    grams = [tuple(tokens[at : at + n]) for tokens in token_lists for at in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def equal_counts(token_lists_by_decoder: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, list[list[int]]]:
    """Cut the responses to each prompt to the fewest tokens that any decoder has on that prompt.

    `token_lists_by_decoder[d][i]` are the tokens of decoder d on prompt i. Afterwards all decoders have equally many
    tokens on every prompt, so measures that grow or shrink with length compare fairly.

    Raises:
        ValueError: decoders have different numbers of prompts.
    """
    if len({len(lists) for lists in token_lists_by_decoder.values()}) > 1:
        raise ValueError("every decoder must have one response for each prompt")
    fewest = [min(map(len, lists)) for lists in zip(*token_lists_by_decoder.values(), strict=True)]
    return {
        decoder: [list(tokens[:count]) for tokens, count in zip(lists, fewest, strict=True)]
        for decoder, lists in token_lists_by_decoder.items()
    }


def mean_log_probability(sums: Sequence[float], counts: Sequence[int]) -> float | None:
    """sum_i s_i / sum_i n_i: mean log-probability a token in nats, every token weighing the same; None without tokens.

    `sums[i]` is a response's log-probability and `counts[i]` its number of tokens.
    """
    return math.fsum(sums) / total if (total := sum(counts)) else None


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(f"need one dimension of at least one finite number, not shape {array.shape}")
    return array
