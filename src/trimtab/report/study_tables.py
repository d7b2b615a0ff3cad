"""A study's tables: as in the write-up, mean (standard deviation over seeds), in Markdown and LaTeX; all of it as CSV.

Knows nothing of figures or of how cells were measured.

    >>> spread(Value(2.738, 0.0051, 2.72, 2.75, (2.73, 2.74)), 3)
    '2.738 (0.005)'
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich.box
import rich.table
import rich.text

from trimtab.errors import one_line
from trimtab.evaluation.cells import CellRow, Comparison, Value
from trimtab.report.columns import number
from trimtab.report.tables import csv_text
from trimtab.store.files import write_text


@dataclass(frozen=True)
class Measure:
    """A measure as people read it: its heading, what it means, its decimals, and what it is multiplied by."""

    heading: str
    meaning: str
    digits: int = 3
    scale: float = 1.0


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
"""The measures of the table in the write-up's form."""


def axes_of(rows: Sequence[CellRow]) -> list[str]:
    """The axes that any row has a place on, in the order of their appearance."""
    return list(dict.fromkeys(axis for row in rows for axis in row.labels))


def heading_of(axis: str) -> str:
    """What the axis is called at the head of a column: the last part of a field's name."""
    return axis.rpartition(".")[2]


def measures_of(rows: Sequence[CellRow]) -> list[str]:
    """The measures that any row has, in the order of `MEASURES`."""
    return [name for name in MEASURES if any(name in row.values for row in rows)]


def spread(value: Value | None, digits: int, scale: float = 1.0) -> str:
    """`mean (standard deviation over seeds)`, the mean alone where there was one seed."""
    if value is None:
        return ""
    mean = number(value.mean * scale, digits)
    return mean if value.std is None else f"{mean} ({number(value.std * scale, digits)})"


def interval(value: Value | None, digits: int, scale: float = 1.0) -> str:
    """`mean [low, high]`."""
    if value is None or value.low is None or value.high is None:
        return spread(value, digits, scale)
    low, high = (number(end * scale, digits) for end in (value.low, value.high))
    return f"{number(value.mean * scale, digits)} [{low}, {high}]"


def text_of(row: CellRow, measure: str, form: str = "interval") -> str:
    """The row's measure as `mean [low, high]` or, with form `spread`, as `mean (std)`."""
    said = MEASURES[measure]
    shape = interval if form == "interval" else spread
    return shape(row.values.get(measure), said.digits, said.scale)


def write_tables(
    folder: Path, rows: Sequence[CellRow], comparisons: Sequence[Comparison], notes: Iterable[str]
) -> None:
    """Write table.md, table.tex, table.csv, runs.csv and comparisons.csv; `notes` stand below the Markdown table."""
    write_text(folder / "table.md", [_markdown(rows, notes)])
    write_text(folder / "table.tex", [_latex(rows)])
    write_text(folder / "table.csv", [_csv(_table(rows))])
    write_text(folder / "runs.csv", [_csv(_runs(rows))])
    write_text(folder / "comparisons.csv", [_csv(_compared(comparisons))])


def _place(row: CellRow, axes: Sequence[str]) -> list[str]:
    """The row's labels; a row on no axis, which others are measured against, has its name in the first column."""
    return [row.labels.get(axis, "") for axis in axes] if row.labels else [row.name, *[""] * (len(axes) - 1)]


def _markdown(rows: Sequence[CellRow], notes: Iterable[str]) -> str:
    axes = axes_of(rows) or ["cell"]
    heads = [heading_of(axis) for axis in axes]
    written = [name for name in WRITE_UP if name in measures_of(rows)]
    plain = [[*heads, *(f"{MEASURES[name].heading} (std)" for name in written)]]
    plain += [[*_place(row, axes), *(text_of(row, name, "spread") for name in written)] for row in rows]
    names = measures_of(rows)
    full = [["cell", "seeds", *(MEASURES[name].heading for name in names), "on the frontier"]]
    full += [
        [row.name, str(len(row.seeds)), *(text_of(row, name) for name in names), "yes" if row.frontier else ""]
        for row in rows
    ]
    meanings = [f"- **{MEASURES[name].heading}**: {MEASURES[name].meaning}\n" for name in names]
    return "".join([*_pipes(plain), "\n", *_pipes(full), "\n", *meanings, *(f"- {note}\n" for note in notes)])


def _pipes(cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return [
        "| " + " | ".join(one_line(c).replace("|", "\\|").replace("<", "&lt;") for c in line) + " |\n" for line in lines
    ]


_SPECIAL = {each: f"\\{each}" for each in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}",
    ">": r"\textgreater{}",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_SPECIAL.get(each, each) for each in one_line(text))


def _latex(rows: Sequence[CellRow]) -> str:
    """The write-up's table; needs no package. A label is written where it changes."""
    axes = axes_of(rows) or ["cell"]
    written = [name for name in WRITE_UP if name in measures_of(rows)]
    heads = [*map(heading_of, axes), *(f"{MEASURES[name].heading} (std)" for name in written)]
    lines = [r"\begin{tabular}{" + "l" * len(axes) + "r" * len(written) + "}", r"\hline"]
    lines += [" & ".join(map(_tex, heads)) + r" \\", r"\hline"]
    before: list[str] = []
    for row in rows:
        place = _place(row, axes)
        shown = ["" if place[: at + 1] == before[: at + 1] else label for at, label in enumerate(place)]
        lines.append(" & ".join(map(_tex, [*shown, *(text_of(row, name, "spread") for name in written)])) + r" \\")
        before = place if row.labels else []
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


Cells = Sequence[Sequence[str | float | int | None]]


def _csv(cells: Cells) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([csv_text(cell) for cell in line] for line in cells)
    return file.getvalue()


def _table(rows: Sequence[CellRow]) -> Cells:
    axes, names = axes_of(rows), measures_of(rows)
    ends = ("", "_std", "_low", "_high", "_gain", "_gain_low", "_gain_high")
    lines: list[list[str | float | int | None]] = [
        [
            "cell",
            *axes,
            "reference",
            "seeds",
            "responses",
            "frontier",
            *(f"{name}{end}" for name in names for end in ends),
        ]
    ]
    for row in rows:
        line: list[str | float | int | None] = [row.name, *(row.labels.get(axis, "") for axis in axes), row.reference]
        line += [len(row.seeds), row.responses, int(row.frontier)]
        for name in names:
            value, gain = row.values.get(name), row.gains.get(name)
            line += [value.mean, value.std, value.low, value.high] if value else [None] * 4
            line += [*gain] if gain else [None] * 3
        lines.append(line)
    return lines


def _runs(rows: Sequence[CellRow]) -> Cells:
    """Each measure of each seed."""
    names = measures_of(rows)
    lines: list[list[str | float | int | None]] = [["cell", "seed", *names]]
    for row in rows:
        for place, seed in enumerate(row.seeds):
            lines.append([row.name, seed, *(_at(row.values, name, place) for name in names)])
    return lines


def _at(values: Mapping[str, Value], name: str, place: int) -> float | None:
    return values[name].by_seed[place] if name in values else None


def _compared(comparisons: Sequence[Comparison]) -> Cells:
    lines: list[list[str | float | int | None]] = [["cell", "other", "measure", "difference", "low", "high"]]
    for each in comparisons:
        lines.append([each.cell, each.other, each.measure, *each.change])
    return lines


def terminal_table(rows: Sequence[CellRow]) -> rich.table.Table:
    """Reward, diversity and what else is told in few words, for a terminal of 100 columns."""
    shown = [name for name in ("reward", "diversity", "below", "judge", "kl") if name in measures_of(rows)]
    table = rich.table.Table(
        caption=rich.text.Text("mean (standard deviation over seeds); * on the frontier of reward and diversity"),
        caption_justify="left", box=rich.box.SIMPLE_HEAD, padding=(0, 1), show_edge=False,
    )  # fmt: skip
    for heading in ("cell", "seeds", *(MEASURES[name].heading for name in shown)):
        table.add_column(heading, justify="left" if heading == "cell" else "right", no_wrap=heading == "cell")
    for row in rows:
        cells = [row.name + (" *" if row.frontier else ""), str(len(row.seeds))]
        cells += [text_of(row, name, "spread") for name in shown]
        table.add_row(*(rich.text.Text(cell) for cell in cells))
    return table
