"""A study's report folder: one self-contained page, the figures and the tables.

The page needs no network and no script. Everything in it that users wrote is escaped. Knows nothing of how cells were
measured or where runs lie.

    >>> write_study_report(Path("report"), facts, rows, comparisons).name               # doctest: +SKIP
    'report.html'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from trimtab.evaluation.cells import CellRow, Comparison
from trimtab.report import study_plots
from trimtab.report.columns import characters
from trimtab.report.page import PACKAGES, template
from trimtab.report.palette import dark_colours
from trimtab.report.study_tables import MEASURES, axes_of, heading_of, measures_of, text_of, write_tables
from trimtab.report.svg import Picture, picture
from trimtab.report.wording import number
from trimtab.store.files import write_text

LABEL_CHARACTERS = 8  # of a line of a label in the table, at least
COMPARED = ("reward", "diversity", "below", "judge", "kl")
"""The measures that the page compares with the baseline; comparisons.csv has all, and all pairs of cells."""


@dataclass(frozen=True)
class StudyFacts:
    """What a report says of its study: `source` is the study file's content, `failures` name runs that failed and why,
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
    cells = [[MEASURES[name].heading, *(_in_table(row, name) for row in rows)] for name in names]
    page = template("study.html.j2").render(
        facts=facts,
        lead=_lead(facts, rows),
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


def _in_table(row: CellRow, measure: str) -> str:
    return f"{text_of(row, measure, 'spread')} {text_of(row, measure)}"


def _lead(facts: StudyFacts, rows: Sequence[CellRow]) -> str:
    cells = [row for row in rows if row.labels]
    seeds = sorted({len(row.seeds) for row in cells})
    times = " to ".join(map(str, {seeds[0]: 0, seeds[-1]: 0})) if seeds else "1"
    counts = sorted({row.responses for row in rows})
    responses = " to ".join(f"{count:,}" for count in {counts[0]: 0, counts[-1]: 0})
    word = "seed" if seeds == [1] else "seeds"
    return f"{len(cells)} cells, each under {times} {word} and measured on {responses} responses a seed."


def _headline(facts: StudyFacts, rows: Sequence[CellRow]) -> str:
    """Who has most reward, and who most diversity among those that gain reward."""
    cells = [row for row in rows if row.labels] or list(rows)
    top = max(cells, key=lambda row: row.values["reward"].mean)
    said = f"{top.name} has the most reward: {text_of(top, 'reward')} {facts.unit}"
    if "reward" in top.gains:
        gain = top.gains["reward"]
        said += f", {number(gain.mean)} [{number(gain.low)}, {number(gain.high)}] more than {top.reference}"
    gaining = [row for row in cells if row.gains and row.gains["reward"].low > 0]
    if not gaining:
        return f"{said}."
    kept = max(gaining, key=lambda row: row.values["diversity"].mean)
    rest = f"has the most diversity too, {text_of(kept, 'diversity')} nats"
    if kept is top:
        return f"{said}. Of all cells that surely gain reward it {rest}."
    reward = number(kept.values["reward"].mean)
    rest = f"keeps the most diversity, {text_of(kept, 'diversity')} nats, at a reward of {reward}"
    return f"{said}. Of all cells that surely gain reward {kept.name} {rest}."


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
    changes = {}
    for each in comparisons:
        if each.other == facts.baseline:
            changes[each.cell, each.measure] = each.change
        elif each.cell == facts.baseline:
            mean, low, high = each.change
            changes[each.other, each.measure] = type(each.change)(-mean, -high, -low)
    names = [name for name in COMPARED if name in measures_of(rows)]
    found = []
    for row in rows:
        if not any((row.name, name) in changes for name in names):
            continue
        texts = []
        for name in names:
            said, change = MEASURES[name], changes.get((row.name, name))
            if change is None:
                texts.append("")
                continue
            ends = [number(value * said.scale, said.digits) for value in change]
            sure = "" if change.low <= 0 <= change.high else " *"
            texts.append(f"{ends[0]} [{ends[1]}, {ends[2]}]{sure}")
        found.append((row.name, texts))
    return found


def _seeds(rows: Sequence[CellRow], measure: str, confidence: float, narrow: bool) -> Figure:
    return study_plots.seeds(rows, measure, confidence=confidence, narrow=narrow)


def _pictures(folder: Path, facts: StudyFacts, rows: Sequence[CellRow]) -> list[Picture]:
    unit, confidence = facts.unit, facts.confidence
    best = ", ".join(row.name for row in rows if row.frontier)
    pictures = [
        picture(
            folder,
            "frontier",
            f"Mean gold reward in {unit} against diversity in nats. On the frontier: {best}. The numbers stand in the "
            "table.",
            lambda narrow: study_plots.frontier(rows, unit=unit, narrow=narrow),
        )
    ]
    for measure in ("reward", "diversity"):
        pictures.append(
            picture(
                folder,
                f"{measure}-by-seed",
                f"{MEASURES[measure].heading} of every cell: each seed, the mean and its interval, as in the table.",
                partial(_seeds, rows, measure, confidence),
            )
        )
    if any(row.reference is not None for row in rows):
        pictures.append(
            picture(
                folder,
                "before-after",
                f"Histograms of the gold reward in {unit}, one panel for each cell, over those before tuning or "
                "unguided; all on one axis. The means stand in the table.",
                lambda narrow: study_plots.histograms(rows, unit=unit, narrow=narrow),
            )
        )
    return pictures
