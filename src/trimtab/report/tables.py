"""A run's table as CSV, as Markdown and in the terminal; and the comparison of two decoders."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import rich.box
import rich.table
import rich.text

from trimtab.errors import one_line
from trimtab.evaluation.comparison import Comparison
from trimtab.evaluation.evaluate import TUNED_SUFFIX, Row
from trimtab.evaluation.metrics import Estimate
from trimtab.report.columns import GOLD_NOTE, Column, columns_of
from trimtab.store.files import write_text

LEFT_ALIGNED = ("reward", "gain", "to_best", "judge_gain")


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV in which floats keep all digits and None is empty."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, whose heading is the first row; `|` and `<` in cells are escaped."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return [
        "| " + " | ".join(one_line(cell).replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |\n"
        for line in lines
    ]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write `table.csv`: a column for each field of `Row`, then the further columns; floats with all their digits."""
    names = [field.name for field in dataclasses.fields(Row) if field.name not in ("against", "extra")]
    extra = list(dict.fromkeys(name for row in rows for name in row.extra))
    values = [[*(vars(row)[name] for name in names), *(row.extra.get(name) for name in extra)] for row in rows]
    write_text(path, [csv_text([[*names, *extra], *values])])


def write_differences(rows: Sequence[Row], path: Path) -> None:
    """Write `differences.csv`: each decoder minus each other one, in reward and in fluency, paired by prompt."""
    names = [f"{measure}{end}" for measure in ("reward", "fluency") for end in ("", "_low", "_high")]
    values = [
        [row.decoder, other, found.prompts, *found.reward, *(found.fluency or (None, None, None))]
        for row in rows
        for other, found in row.against.items()
    ]
    write_text(path, [csv_text([["decoder", "other", "prompts", *names], *values])])


def write_markdown(rows: Sequence[Row], path: Path, columns: Sequence[Column] = ()) -> None:
    """Write the rounded table with a model column, and below it what each column means (`columns_of` by default)."""
    columns = columns or columns_of(rows)
    decoder, *others = columns
    cells = [[decoder.heading, "model", *(column.heading for column in others)]]
    cells += [[decoder.text(row), row.model, *(column.text(row) for column in others)] for row in rows]
    meanings = [f"- **{column.heading}**: {one_line(column.meaning)}\n" for column in columns]
    notes = [f"- {GOLD_NOTE}\n"] if any(row.by_gold for row in rows) else []
    write_text(path, [*markdown_rows(cells), "\n", *meanings, *notes])


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the model that they sample; rows of a tuned model are listed with those of its untuned one."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.model.removesuffix(TUNED_SUFFIX), []).append(row)
    return grouped


def terminal_table(rows: Sequence[Row], columns: Sequence[Column] = ()) -> rich.table.Table:
    """The whole table in one, however wide, for a notebook."""
    (table,) = terminal_tables(rows, 10_000, columns)
    assert isinstance(table, rich.table.Table)
    return table


def terminal_tables(
    rows: Sequence[Row], width: int, columns: Sequence[Column] = ()
) -> list[rich.table.Table | rich.text.Text]:
    """The table for a terminal, with a section for each model; in several below each other where one is too wide, with
    what its words mean at the end.

    Args:
        width: the terminal's columns. An interval stands beneath its mean where one line has no room for all.
        columns: the columns to show; empty: `columns_of(rows)`. Those without a `narrow` heading are left out.
    """
    name, *others = [column for column in columns or columns_of(rows) if column.narrow != ""]
    grouped = families(rows)
    names = min(max(len(name.text(row)) for row in rows), max(width // 4, 12))
    for stacked in (False, True):
        parts = _parts(others, rows, width - names, stacked)
        if len(parts) == 1:
            break
    title = "\n".join(
        one_line(f"{model}: {', '.join(row.decoder for row in members)}") for model, members in grouped.items()
    )
    legend = _legend(rows, others)
    tables: list[rich.table.Table | rich.text.Text] = []
    for number, part in enumerate(parts, start=1):
        table = _table(title if number == 1 else "", legend if len(parts) == 1 else "")
        table.add_column(name.heading, overflow="fold", max_width=names)
        for column in part:
            justify: Literal["left", "right"] = "left" if column.name in LEFT_ALIGNED else "right"
            table.add_column(column.narrow or column.heading, justify=justify, no_wrap=True)
        for members in grouped.values():
            for row in members:
                table.add_row(*(rich.text.Text(_cell(column, row, stacked)) for column in (name, *part)))
            table.add_section()
        tables.append(table)
    return tables if len(parts) == 1 else [*tables, rich.text.Text(legend)]


def _parts(columns: Sequence[Column], rows: Sequence[Row], width: int, stacked: bool) -> list[list[Column]]:
    """The columns in groups that are each at most `width` characters wide, spaces before them included."""
    parts: list[list[Column]] = [[]]
    left = width
    for column in columns:
        cells = [column.narrow or column.heading, *(_cell(column, row, stacked) for row in rows)]
        needed = 1 + max(len(line) for cell in cells for line in cell.split("\n"))
        if needed > left and parts[-1]:
            parts.append([])
            left = width
        parts[-1].append(column)
        left -= needed
    return parts


def _cell(column: Column, row: Row, stacked: bool) -> str:
    return column.text(row).replace(" [", "\n[") if stacked else column.text(row)


def _table(title: str, caption: str) -> rich.table.Table:
    return rich.table.Table(
        title=rich.text.Text(title),
        title_justify="left",
        caption=rich.text.Text(caption),
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )


def _legend(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    left_out = sum(row.left_out + row.set_aside for row in rows)
    prompts = max((row.prompts + row.left_out + row.set_aside for row in rows), default=0)
    missing = f"; {left_out} responses without finite logits and scores left out" if left_out else ""
    gold = f"; {GOLD_NOTE}" if any(row.by_gold for row in rows) else ""
    names = {column.name for column in columns}
    best = "to best: over the best decoder; " if "to_best" in names else ""
    headroom = "headroom: share of the gold pick's gain; " if "headroom" in names else ""
    cost = f"TFLOP, sec.: for one of {prompts} prompts" if "flops" in names else f"{prompts} responses"
    kl = ", KL from the untuned model" if "kl" in names else ""
    return (
        f"mean [interval]; gain: over the same model unguided; {best}{headroom}"
        f"diversity, fluency{kl}: nats; {cost}{missing}{gold}"
    )


def comparison_table(first: str, second: str, compared: Comparison) -> rich.table.Table:
    """One row: how often the first wins, with and without the effect of length, and both lengths."""
    left_out = f"; {compared.left_out} left out, without a finite reward" if compared.left_out else ""
    table = _table(
        f"{one_line(first)} against {one_line(second)}",
        f"by the gold reward on {compared.prompts} prompts{left_out}; a tie is half a win; 95 % intervals; "
        "lengths in characters",
    )
    table.padding = (0, 1)
    cells = {
        "win rate": shares(compared.win_rate),
        "length-controlled": shares(compared.length_controlled),
        "won/tied/lost": f"{compared.wins}/{compared.ties}/{compared.losses}",
        "lengths": f"{compared.first_length:.0f} and {compared.second_length:.0f}",
    }
    for heading in cells:
        table.add_column(heading, no_wrap=True)
    table.add_row(*cells.values())
    return table


def comparison_values(first: str, second: str, reward: str, compared: Comparison) -> dict[str, Any]:
    """The values of `comparison_table` with all digits, and the name of the reward that judged."""
    rates = {"win_rate": compared.win_rate._asdict(), "length_controlled": compared.length_controlled._asdict()}
    return {"first": first, "second": second, "reward": reward, **dataclasses.asdict(compared), **rates}


def shares(estimate: Estimate) -> str:
    """A share with its interval, in percent.

    >>> shares(Estimate(0.625, 0.5, 0.75))
    '62.5 % [50.0, 75.0]'
    """
    return f"{100 * estimate.mean:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
