"""A study's tables: Markdown and LaTeX as in the write-up, CSV with all digits, and a table for the terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from trimtab.errors import one_line
from trimtab.evaluation.cells import CellRow, Comparison
from trimtab.report.tables import csv_text, markdown_rows
from trimtab.report.wording import number
from trimtab.store.files import write_text
from trimtab.store.text_table import print_rows


@dataclass(frozen=True)
class Measure:
    """A measure: its heading, what it means, its decimals, and the factor that it is shown with."""

    heading: str
    meaning: str
    digits: int = 3
    scale: float = 1.0

    def number(self, value: float) -> str:
        """The value, scaled and rounded."""
        return number(value * self.scale, self.digits)


MEASURES = {
    "reward": Measure("reward", "mean gold reward of the responses"),
    "diversity": Measure("diversity", "entropy of the distribution of tokens over all responses, in nats"),
    "positive": Measure("positive (%)", "share of responses with a reward above 0", 1, 100),
    "below": Measure("below threshold (%)", "share of responses with a reward below evaluate.threshold", 1, 100),
    "judge": Measure(
        "second judge", "mean score by the second judge of how positive a text reads, which took no part in tuning"
    ),
    "kl": Measure("KL", "log-ratio of tuned and untuned model on the tuned model's responses, nats a response", 2),
    "fluency": Measure("fluency", "log-probability of a token under the unguided base, in nats"),
    "distinct_1": Measure("distinct-1", "share of different tokens among all tokens"),
    "distinct_2": Measure("distinct-2", "share of different pairs of neighbouring tokens among all such pairs"),
    "tokens": Measure("tokens", "mean length of a response in tokens", 1),
}
WRITE_UP = ("reward", "diversity")
"""The measures of the write-up's table."""


def axes_of(rows: Sequence[CellRow]) -> list[str]:
    """The study's axes on which a row has a label, in order of appearance."""
    return list(dict.fromkeys(axis for row in rows for axis in row.labels))


def heading_of(axis: str) -> str:
    """The axis as the heading of a column: the last part of a field's name."""
    return axis.rpartition(".")[2]


def measures_of(rows: Sequence[CellRow]) -> list[str]:
    """The measures that any row has, in the order of `MEASURES`."""
    return [name for name in MEASURES if any(name in row.values for row in rows)]


def text_of(row: CellRow, name: str, form: Literal["interval", "spread"] = "interval") -> str:
    """The row's measure as `mean [low, high]` or as `mean (standard deviation over seeds)`; the mean alone without."""
    measure, value = MEASURES[name], row.values.get(name)
    if value is None:
        return ""
    if form == "interval" and value.low is not None and value.high is not None:
        return f"{measure.number(value.mean)} [{measure.number(value.low)}, {measure.number(value.high)}]"
    return measure.number(value.mean) + ("" if value.std is None else f" ({measure.number(value.std)})")


def write_tables(
    folder: Path, rows: Sequence[CellRow], comparisons: Sequence[Comparison], notes: Iterable[str]
) -> None:
    """Write table.md, table.tex, table.csv, runs.csv and comparisons.csv; `notes` stand below the Markdown table."""
    write_up = _write_up(rows)
    write_text(folder / "table.md", [*markdown_rows(write_up), "\n", *_markdown(rows, notes)])
    write_text(folder / "table.tex", [_latex(write_up, rows)])
    write_text(folder / "table.csv", [_csv(rows)])
    names = measures_of(rows)
    runs = [
        [row.name, seed, *(row.values[name].by_seed[index] if name in row.values else None for name in names)]
        for row in rows
        for index, seed in enumerate(row.seeds)
    ]
    write_text(folder / "runs.csv", [csv_text([["cell", "seed", *names], *runs])])
    changes = [[one.cell, one.other, one.measure, *one.change] for one in comparisons]
    header = ["cell", "other", "measure", "difference", "low", "high"]
    write_text(folder / "comparisons.csv", [csv_text([header, *changes])])


def _write_up(rows: Sequence[CellRow]) -> list[list[str]]:
    """The write-up's table: labels, then `mean (std)`. A row without labels has its name in the first column."""
    axes, names = axes_of(rows), [name for name in WRITE_UP if name in measures_of(rows)]
    cells = [[*(map(heading_of, axes) if axes else ["cell"]), *(f"{MEASURES[name].heading} (std)" for name in names)]]
    for row in rows:
        labels = [row.labels.get(axis, "") for axis in axes] if row.labels else [row.name, *[""] * (len(axes) - 1)]
        cells.append([*labels, *(text_of(row, name, "spread") for name in names)])
    return cells


def _markdown(rows: Sequence[CellRow], notes: Iterable[str]) -> list[str]:
    """All measures with their intervals, what they mean, and the notes."""
    names = measures_of(rows)
    cells = [["cell", "seeds", *(MEASURES[name].heading for name in names), "on the frontier"]]
    cells += [
        [row.name, str(len(row.seeds)), *(text_of(row, name) for name in names), "yes" if row.frontier else ""]
        for row in rows
    ]
    meanings = [f"- **{MEASURES[name].heading}**: {MEASURES[name].meaning}\n" for name in names]
    return [*markdown_rows(cells), "\n", *meanings, *(f"- {note}\n" for note in notes)]


_TEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def _latex(cells: Sequence[Sequence[str]], rows: Sequence[CellRow]) -> str:
    """The write-up's table, which needs no package; a label is written only where it changes."""
    axes = len(axes_of(rows)) or 1
    heads, *texts = [[one_line(cell).translate(_TEX) for cell in line] for line in cells]
    lines = [r"\begin{tabular}{" + "l" * axes + "r" * (len(heads) - axes) + "}", r"\hline"]
    lines += [" & ".join(heads) + r" \\", r"\hline"]
    before: list[str] = []
    for row, text in zip(rows, texts, strict=True):
        labels = ["" if text[: at + 1] == before[: at + 1] else label for at, label in enumerate(text[:axes])]
        lines.append(" & ".join([*labels, *text[axes:]]) + r" \\")
        before = text if row.labels else []
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _csv(rows: Sequence[CellRow]) -> str:
    axes, names = axes_of(rows), measures_of(rows)
    ends = ("", "_std", "_low", "_high", "_gain", "_gain_low", "_gain_high")
    columns = [f"{name}{end}" for name in names for end in ends]
    lines: list[list[object]] = [["cell", *axes, "reference", "seeds", "responses", "frontier", *columns]]
    for row in rows:
        line: list[object] = [row.name, *(row.labels.get(axis, "") for axis in axes), row.reference]
        line += [len(row.seeds), row.responses, int(row.frontier)]
        for name in names:
            value, gain = row.values.get(name), row.gains.get(name)
            line += [None] * 4 if value is None else [value.mean, value.std, value.low, value.high]
            line += [None] * 3 if gain is None else gain
        lines.append(line)
    return csv_text(lines)


def print_cells(rows: Sequence[CellRow], console: Console) -> None:
    """Print the most important measures, for a terminal."""
    measures = [name for name in ("reward", "diversity", "below", "judge", "kl") if name in measures_of(rows)]
    headings = ["cell", "seeds", *(MEASURES[name].heading for name in measures)]
    lines = [
        [row.name + (" *" if row.frontier else ""), str(len(row.seeds)),
         *(text_of(row, name, "spread") for name in measures)]
        for row in rows
    ]  # fmt: skip
    print_rows(console, headings, lines, right=headings[1:])
    console.print("mean (standard deviation over seeds); * on the frontier of reward and diversity")
