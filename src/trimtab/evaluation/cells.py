"""From the scores of a study's runs to one row a cell: means over seeds, intervals, gains, comparisons, the frontier.

A cell is a name and what was measured under each seed.

    >>> rows = summarise_cells(cells, resamples=2000, confidence=0.95, seed=0)          # doctest: +SKIP
    >>> rows[0].values["reward"].mean                                                   # doctest: +SKIP
    2.71
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
"""Where a measure cannot but lie."""


@dataclass(frozen=True)
class Measured:
    """One decoder of one run: its answers in the order of `scores`, and each answer's tokens (`encode`d alike).

    `threshold` is the reward below which a response misses the aimed-at tone. `divergence` is on the first answers.
    """

    seed: str
    answers: Sequence[Generation]
    scores: Sequence[Score]
    tokens: Sequence[Sequence[int]]
    threshold: float | None = None
    divergence: Divergence | None = None


@dataclass(frozen=True)
class MeasuredCell:
    """A decoder of a cell under all its seeds; `reference` names the cell of its model unguided, or untuned."""

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
    """A line of the study's table. `gains` are over `reference`; `frontier`: no cell has more reward and diversity."""

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
    """The rows in the order of `cells`, and every two cells compared in every measure that can be resampled."""
    repetitions = {cell.name: [_repetition(run) for run in cell.runs] for cell in cells}
    drawn = {name: replicates(each, resamples=resamples, seed=seed) for name, each in repetitions.items()}
    by_seed = {name: _columns([each.values() for each in entries]) for name, entries in repetitions.items()}
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    rows, comparisons = [], []

    def change(ours: str, theirs: str, measure: str) -> Estimate | None:
        two = by_seed[ours][measure], by_seed[theirs][measure]
        return difference(*two, drawn[ours][measure], drawn[theirs][measure], confidence=confidence)

    for cell in cells:
        values = {
            name: _value(name, by_seed[cell.name][name], drawn[cell.name][name], ends, confidence)
            for name in drawn[cell.name]
        }
        for name, column in _columns([_distinct(run) for run in cell.runs]).items():
            values[name] = _value(name, column, None, ends, confidence)
        reference = cell.reference if cell.reference in drawn else None
        shared = [name for name in drawn[cell.name] if reference is not None and name in drawn[reference]]
        gains = {name: change(cell.name, reference or "", name) for name in shared}
        rows.append(
            CellRow(
                cell.name,
                cell.labels,
                tuple(run.seed for run in cell.runs),
                len(cell.runs[0].scores),
                values,
                tuple(score.reward for run in cell.runs for score in run.scores if is_finite(score)),
                reference,
                {name: gain for name, gain in gains.items() if gain is not None},
            )
        )
    for one, two in itertools.combinations(cells, 2):
        for measure in drawn[one.name]:
            if measure in drawn[two.name] and (found := change(one.name, two.name, measure)) is not None:
                comparisons.append(Comparison(one.name, two.name, measure, found))
    return _with_frontier(rows), comparisons


def _repetition(run: Measured) -> Repetition:
    """A run's statistics; a response with a score that is no finite number has no part in any."""
    whole = np.array([is_finite(score) for score in run.scores])
    ones = whole.astype(np.float64)

    def mean_of(values: Sequence[float]) -> Ratio:
        return Ratio(np.where(whole, np.asarray(values, dtype=np.float64), 0.0), ones)

    rewards = [score.reward for score in run.scores]
    statistics: dict[str, Statistic] = {"reward": mean_of(rewards)}
    tokens = [tokens if kept else [] for tokens, kept in zip(run.tokens, whole, strict=True)]
    statistics["diversity"] = Entropy(token_counts(tokens))
    statistics["positive"] = mean_of([float(reward > 0) for reward in rewards])
    if run.threshold is not None:
        threshold = run.threshold
        statistics["below"] = mean_of([float(reward < threshold) for reward in rewards])
    judgements = [score.judge for score in run.scores if score.judge is not None]
    if len(judgements) == len(run.scores):  # elsewhere there is no second judge
        statistics["judge"] = mean_of(judgements)
    logs = np.array([score.log_probability for score in run.scores])
    counts = np.array([score.base_tokens for score in run.scores], dtype=np.float64)
    statistics["fluency"] = Ratio(np.where(whole, logs, 0.0), counts * ones)
    statistics["tokens"] = mean_of([float(score.tokens) for score in run.scores])
    if run.divergence is not None:
        statistics["kl"] = _divergence(run, run.divergence)
    prompts = json.dumps([[answer.prompt_id, answer.prompt] for answer in run.answers])
    return Repetition(run.seed, hashlib.sha256(prompts.encode()).hexdigest(), len(run.scores), statistics)


def _divergence(run: Measured, found: Divergence) -> Ratio:
    """The mean log-ratio; `found` has one for each of the first answers that was not set aside."""
    sampled = [place for place, answer in enumerate(run.answers) if answer.finish not in SET_ASIDE][
        : len(found.log_ratios)
    ]
    top, bottom = np.zeros(len(run.answers)), np.zeros(len(run.answers))
    for place, ratio in zip(sampled, found.log_ratios, strict=True):
        if math.isfinite(ratio):
            top[place], bottom[place] = ratio, 1.0
    return Ratio(top, bottom)


def _distinct(run: Measured) -> dict[str, float]:
    """Measures of a set of responses that resampling would falsify: a response drawn twice has no new n-gram."""
    return {f"distinct_{n}": metrics.distinct_n(run.tokens, n) for n in (1, 2)}


def _columns(entries: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [entry[name] for entry in entries] for name in entries[0]}


def _value(
    name: str, by_seed: Sequence[float], drawn: Array | None, ends: tuple[float, float], confidence: float
) -> Value:
    """The t-interval over seeds, cut where a share or an entropy cannot be; with one seed its replicates', centred."""
    spread = over_seeds(by_seed, confidence=confidence)
    low, high = spread.low, spread.high
    if drawn is not None and len(by_seed) == 1:
        # about the measured value: the entropy of resampled responses is lower than theirs, since some are left out
        low, high = map(float, np.quantile(drawn, ends) + spread.mean - drawn.mean())
    if low is not None and high is not None and name in RANGES:
        least, most = RANGES[name]
        low, high = max(low, least), min(high, most)
    return Value(spread.mean, spread.std, low, high, tuple(by_seed))


def _with_frontier(rows: Sequence[CellRow]) -> list[CellRow]:
    """Marks the rows that no other beats in mean reward and mean diversity at once."""

    def place(row: CellRow) -> tuple[float, float]:
        return row.values["reward"].mean, row.values["diversity"].mean

    def beaten(row: CellRow) -> bool:
        reward, diversity = place(row)
        return any(r >= reward and d >= diversity and (r, d) != (reward, diversity) for r, d in map(place, rows))

    return [CellRow(**{**vars(row), "frontier": not beaten(row)}) for row in rows]
