"""A study's report folder: one self-contained page, the figures and the tables.

The page needs no network and no script, and escapes everything that users wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from trimtab.evaluation.cells import CellRow, Comparison
from trimtab.evaluation.metrics import Estimate
from trimtab.report import study_plots
from trimtab.report.columns import characters
from trimtab.report.page import PACKAGES, template
from trimtab.report.palette import dark_colours
from trimtab.report.study_tables import MEASURES, axes_of, heading_of, measures_of, text_of, write_tables
from trimtab.report.svg import Picture, picture
from trimtab.report.wording import interval, number
from trimtab.store.files import write_text

LABEL_CHARACTERS = 8  # of a line of a label in the table, at least
COMPARED = ("reward", "diversity", "below", "judge", "kl")
"""The measures that the page compares with the baseline; comparisons.csv has all, and all pairs of cells."""


@dataclass(frozen=True)
class StudyFacts:
    """What a report says of its study: `source` is the study file's content, `failures` are failed runs with reasons,
    `unit` is the reward's; `resamples` and `confidence` are those of the intervals."""

    name: str
    source: Mapping[str, Any]
    baseline: str
    unit: str
    confidence: float
    resamples: int
    failures: Mapping[str, str]


def write_study_report(
    folder: Path, facts: StudyFacts, rows: Sequence[CellRow], comparisons: Sequence[Comparison]
) -> Path:
    """Fill `folder` with report.html, the tables and figures/, and give the page's path."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    notes = _notes(facts, rows)
    failed = [f"{run} failed and is left out: {why}" for run, why in facts.failures.items()]
    write_tables(folder, rows, comparisons, [*notes, *failed])
    names = measures_of(rows)
    compared = _compared(facts, rows, comparisons)
    headings = [MEASURES[name].heading for name in COMPARED if name in names]
    cells = [
        [MEASURES[name].heading, *(f"{text_of(row, name, 'spread')} {text_of(row, name)}" for row in rows)]
        for name in names
    ]
    page = template("study.html.j2").render(
        facts=facts,
        lead=_lead(rows),
        headline=_headline(facts, rows),
        rows=rows,
        axes=[(axis, heading_of(axis)) for axis in axes_of(rows)],
        measures=[(name, MEASURES[name]) for name in names],
        text_of=text_of,
        # labels break anywhere, as names do
        characters=characters([*cells, ["seeds"], *(["x" * LABEL_CHARACTERS] for _ in axes_of(rows))]),
        compared=compared,
        compared_characters=characters(zip(headings, *(texts for _, texts in compared), strict=True)),
        headings=headings,
        notes=notes,
        pictures=_pictures(folder / "figures", facts, rows),
        dark_colours=dark_colours(),
        versions=[(package, version(package)) for package in PACKAGES],
        configuration=yaml.safe_dump(dict(facts.source), sort_keys=False, allow_unicode=True),
    )
    write_text(folder / "report.html", [page])
    return folder / "report.html"


def _lead(rows: Sequence[CellRow]) -> str:
    cells = [row for row in rows if row.labels]
    seeds = _range([len(row.seeds) for row in cells] or [1])
    responses = _range([row.responses for row in rows])
    noun = "seed" if seeds == "1" and cells else "seeds"
    return f"{len(cells)} cells, each under {seeds} {noun} and measured on {responses} responses a seed."


def _range(counts: Sequence[int]) -> str:
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def _headline(facts: StudyFacts, rows: Sequence[CellRow]) -> str:
    """Which cell has most reward, and which most diversity among those that gain reward."""
    cells = [row for row in rows if row.labels] or list(rows)
    top = max(cells, key=lambda row: row.values["reward"].mean)
    text = f"{top.name} has the most reward: {text_of(top, 'reward')} {facts.unit}"
    if "reward" in top.gains:
        text += f", {interval(*top.gains['reward'])} more than {top.reference}"
    gaining = [row for row in cells if row.gains and row.gains["reward"].low > 0]
    if not gaining:
        return f"{text}."
    varied = max(gaining, key=lambda row: row.values["diversity"].mean)
    diversity, reward = text_of(varied, "diversity"), number(varied.values["reward"].mean)
    rest = f"{varied.name} keeps the most diversity, {diversity} nats, at a reward of {reward}"
    if varied is top:
        rest = f"it has the most diversity too, {diversity} nats"
    return f"{text}. Of all cells that surely gain reward {rest}."


def _notes(facts: StudyFacts, rows: Sequence[CellRow]) -> list[str]:
    """How to read the numbers; the same words below the Markdown table and on the page."""
    share = f"{100 * facts.confidence:g} %"
    notes = [
        "(std): the standard deviation between the means of training seeds, not between responses.",
        f"[low, high]: Student's {share} interval of the mean over seeds, which holds for new trainings like these.",
    ]
    if any(len(row.seeds) == 1 for row in rows):
        notes.append(
            f"Where there is one seed, [low, high] is the {share} bootstrap interval over its responses alone, and "
            "says nothing of other trainings."
        )
    if any(row.gains for row in rows):
        notes.append(
            f"Differences have {share} percentile intervals of {facts.resamples:,} bootstrap draws over seeds and "
            "responses at once, paired where two cells share them, and not corrected for how many are looked at."
        )
    return [*notes, "On the frontier: no other cell has both more reward and more diversity."]


def _compared(
    facts: StudyFacts, rows: Sequence[CellRow], comparisons: Sequence[Comparison]
) -> list[tuple[str, list[str]]]:
    """Each cell minus the baseline, measure by measure; a difference whose interval leaves out 0 is marked."""
    changes: dict[tuple[str, str], Estimate] = {}
    for comparison in comparisons:
        mean, low, high = comparison.change
        if comparison.other == facts.baseline:
            changes[comparison.cell, comparison.measure] = comparison.change
        elif comparison.cell == facts.baseline:
            changes[comparison.other, comparison.measure] = Estimate(-mean, -high, -low)
    names = [name for name in COMPARED if name in measures_of(rows)]

    def text(cell: str, name: str) -> str:
        if (cell, name) not in changes:
            return ""
        change = changes[cell, name]
        mean, low, high = map(MEASURES[name].number, change)
        return f"{mean} [{low}, {high}]" + ("" if change.low <= 0 <= change.high else " *")

    compared = [(row.name, [text(row.name, name) for name in names]) for row in rows]
    return [(name, texts) for name, texts in compared if any(texts)]


def _pictures(folder: Path, facts: StudyFacts, rows: Sequence[CellRow]) -> list[Picture]:
    best = ", ".join(row.name for row in rows if row.frontier)
    pictures = [
        picture(
            folder,
            "frontier",
            f"Mean gold reward in {facts.unit} against diversity in nats. On the frontier: {best}. The numbers stand "
            "in the table.",
            partial(study_plots.frontier, rows, unit=facts.unit),
        )
    ]
    for measure in ("reward", "diversity"):
        pictures.append(
            picture(
                folder,
                f"{measure}-by-seed",
                f"{MEASURES[measure].heading} of every cell: each seed, the mean and its interval, as in the table.",
                partial(study_plots.seeds, rows, measure, confidence=facts.confidence),
            )
        )
    if any(row.reference is not None for row in rows):
        pictures.append(
            picture(
                folder,
                "before-after",
                f"Histograms of the gold reward in {facts.unit}, one panel for each cell, over those before tuning or "
                "unguided; all on one axis. The means stand in the table.",
                partial(study_plots.histograms, rows, unit=facts.unit),
            )
        )
    return pictures
