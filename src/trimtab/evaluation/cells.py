"""From the scores of a study's runs to a row for each cell: means over seeds, intervals, gains, the frontier."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from trimtab.evaluation import metrics
from trimtab.evaluation.coverage import is_finite
from trimtab.evaluation.divergence import Divergence
from trimtab.evaluation.metrics import Estimate
from trimtab.evaluation.repeats import (
    Array,
    Entropy,
    Ratio,
    Repetition,
    Statistic,
    difference,
    over_seeds,
    replicates,
    token_counts,
)
from trimtab.records import SET_ASIDE, Generation, Score

RANGES = {
    **dict.fromkeys(("positive", "below", "distinct_1", "distinct_2"), (0.0, 1.0)),
    "diversity": (0.0, math.inf),
}
"""The smallest and largest possible value of a measure; its interval is cut off there."""


@dataclass(frozen=True)
class Measured:
    """One decoder of one run: its answers in the order of `scores`, and each answer's tokens, by one tokenizer.

    `threshold` is the reward below which a response counts as `below`. `divergence` is measured on the first answers.
    """

    seed: str
    answers: Sequence[Generation]
    scores: Sequence[Score]
    tokens: Sequence[Sequence[int]]
    threshold: float | None = None
    divergence: Divergence | None = None


@dataclass(frozen=True)
class MeasuredCell:
    """One decoder under all its seeds; `reference` names the cell of the same model unguided, or untuned."""

    name: str
    labels: Mapping[str, str]
    runs: Sequence[Measured]
    reference: str | None = None


@dataclass(frozen=True)
class Value:
    """A measure of a cell: mean over seeds, standard deviation between them, interval; `by_seed` in the seeds' order.

    With one seed there is no standard deviation, and the interval is a bootstrap over its responses alone.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class CellRow:
    """A row of the study's table. `gains` are differences to `reference`
    and `frontier` means that no other cell has at least as much of both reward and diversity."""

    name: str
    labels: Mapping[str, str]
    seeds: tuple[str, ...]
    responses: int
    values: Mapping[str, Value]
    rewards: tuple[float, ...]
    reference: str | None
    gains: Mapping[str, Estimate] = field(default_factory=dict)
    frontier: bool = False


@dataclass(frozen=True)
class Comparison:
    """One cell's measure minus another's, with its interval."""

    cell: str
    other: str
    measure: str
    change: Estimate


def summarise_cells(
    cells: Sequence[MeasuredCell], *, resamples: int, confidence: float, seed: int
) -> tuple[list[CellRow], list[Comparison]]:
    """A row for each cell, in order, and a comparison of every two cells in every measure that can be resampled."""
    resampled, by_seed = {}, {}
    for cell in cells:
        repetitions = [_repetition(run) for run in cell.runs]
        resampled[cell.name] = replicates(repetitions, resamples=resamples, seed=seed)
        by_seed[cell.name] = _columns([repetition.values() for repetition in repetitions])

    def changes(cell: str, other: str) -> dict[str, Estimate]:
        """Each measure of a cell minus the other's, where both have it."""
        differences = {
            measure: difference(
                by_seed[cell][measure],
                by_seed[other][measure],
                resampled[cell][measure],
                resampled[other][measure],
                confidence=confidence,
            )
            for measure in resampled[cell]
            if measure in resampled[other]
        }
        return {measure: change for measure, change in differences.items() if change is not None}

    rows = []
    for cell in cells:
        value = partial(_value, confidence=confidence)
        values = {
            name: value(name, by_seed[cell.name][name], resampled[cell.name][name]) for name in resampled[cell.name]
        }
        distinct = _columns([_distinct(run) for run in cell.runs])
        values |= {name: value(name, column, None) for name, column in distinct.items()}
        reference = cell.reference if cell.reference in resampled else None
        rows.append(
            CellRow(
                name=cell.name,
                labels=cell.labels,
                seeds=tuple(run.seed for run in cell.runs),
                responses=len(cell.runs[0].scores),
                values=values,
                rewards=tuple(score.reward for run in cell.runs for score in run.scores if is_finite(score)),
                reference=reference,
                gains={} if reference is None else changes(cell.name, reference),
            )
        )
    comparisons = [
        Comparison(one.name, two.name, measure, change)
        for one, two in itertools.combinations(cells, 2)
        for measure, change in changes(one.name, two.name).items()
    ]
    return _with_frontier(rows), comparisons


def _repetition(run: Measured) -> Repetition:
    """A run's statistics, from which responses with a score that is not finite are left out."""
    finite = np.array([is_finite(score) for score in run.scores])
    ones = finite.astype(np.float64)

    def mean_of(values: Sequence[float]) -> Ratio:
        return Ratio(np.where(finite, np.asarray(values, dtype=np.float64), 0.0), ones)

    rewards = [score.reward for score in run.scores]
    statistics: dict[str, Statistic] = {"reward": mean_of(rewards)}
    tokens = [tokens if kept else [] for tokens, kept in zip(run.tokens, finite, strict=True)]
    statistics["diversity"] = Entropy(token_counts(tokens))
    statistics["positive"] = mean_of([float(reward > 0) for reward in rewards])
    if run.threshold is not None:
        threshold = run.threshold
        statistics["below"] = mean_of([float(reward < threshold) for reward in rewards])
    judgements = [score.judge for score in run.scores if score.judge is not None]
    if len(judgements) == len(run.scores):  # else there is no second judge
        statistics["judge"] = mean_of(judgements)
    logs = np.array([score.log_probability for score in run.scores])
    counts = np.array([score.base_tokens for score in run.scores], dtype=np.float64)
    statistics["fluency"] = Ratio(np.where(finite, logs, 0.0), counts * ones)
    statistics["tokens"] = mean_of([float(score.tokens) for score in run.scores])
    if run.divergence is not None:
        statistics["kl"] = _mean_log_ratio(run.answers, run.divergence.log_ratios)
    prompts = json.dumps([[answer.prompt_id, answer.prompt] for answer in run.answers])
    return Repetition(run.seed, hashlib.sha256(prompts.encode()).hexdigest(), len(run.scores), statistics)


def _mean_log_ratio(answers: Sequence[Generation], log_ratios: Sequence[float]) -> Ratio:
    """The mean of the finite log-ratios, one for each of the first answers that were not set aside."""
    sampled = [index for index, answer in enumerate(answers) if answer.finish not in SET_ASIDE]
    top, bottom = np.zeros(len(answers)), np.zeros(len(answers))
    for index, ratio in zip(sampled[: len(log_ratios)], log_ratios, strict=True):
        if math.isfinite(ratio):
            top[index], bottom[index] = ratio, 1.0
    return Ratio(top, bottom)


def _distinct(run: Measured) -> dict[str, float]:
    """Measures that are not resampled: a response that is drawn twice adds no n-gram, which would lower them."""
    return {f"distinct_{n}": metrics.distinct_n(run.tokens, n) for n in (1, 2)}


def _columns(entries: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [entry[name] for entry in entries] for name in entries[0]}


def _value(name: str, by_seed: Sequence[float], resampled: Array | None, *, confidence: float) -> Value:
    """A measure over seeds: its mean with a t-interval, or with one seed the interval of the bootstrap.

    `by_seed` holds the measured value of each seed, `resampled` the bootstrap's values (None where the measure cannot
    be resampled). Intervals are cut off at `RANGES`.
    """
    spread = over_seeds(by_seed, confidence=confidence)
    low, high = spread.low, spread.high
    if resampled is not None and len(by_seed) == 1:
        # moved to the measured value: resampling repeats some responses and omits others, which lowers the entropy
        ends = ((1 - confidence) / 2, (1 + confidence) / 2)
        low, high = map(float, np.quantile(resampled, ends) + spread.mean - resampled.mean())
    if low is not None and high is not None and name in RANGES:
        least, most = RANGES[name]
        low, high = max(low, least), min(high, most)
    return Value(spread.mean, spread.std, low, high, tuple(by_seed))


def _with_frontier(rows: Sequence[CellRow]) -> list[CellRow]:
    """Marks the rows that no other row beats in mean reward and mean diversity at once."""
    points = [(row.values["reward"].mean, row.values["diversity"].mean) for row in rows]

    def beaten(point: tuple[float, float]) -> bool:
        return any(other[0] >= point[0] and other[1] >= point[1] and other != point for other in points)

    return [dataclasses.replace(row, frontier=not beaten(point)) for row, point in zip(rows, points, strict=True)]
