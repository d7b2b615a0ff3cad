"""The table as CSV, as Markdown and in the terminal.

Knows nothing of figures or of how rows were measured.

    >>> round_trip = float(csv_text(0.1 + 0.2))
    >>> round_trip == 0.1 + 0.2
    True
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import rich.box
import rich.table
import rich.text

from trimtab.errors import one_line
from trimtab.evaluation.evaluate import TUNED, Row
from trimtab.report.columns import GOLD_NOTE, Column, filled
from trimtab.store.files import write_text

WIDE = 120  # terminal columns from which a mean and its interval fit on one line
LEFT = ("decoder", "reward", "gain", "judge gain")


def csv_text(value: str | float | int | None) -> str:
    """A cell that reads back as the same value: floats in full, None as nothing."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write `table.csv`: a column for each field of `Row`, floats with all their digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    writer.writerows([csv_text(value) for value in dataclasses.astuple(row)] for row in rows)
    write_text(path, [file.getvalue()])


def write_markdown(rows: Sequence[Row], path: Path, columns: Sequence[Column] = ()) -> None:
    """Write the rounded table with a model column, and below it what each column means.

    `columns` are those of the experiment; by default, all that have anything in them.
    """
    columns = columns or filled(rows)
    decoder, *others = columns
    cells = [[decoder.heading, "model", *(column.heading for column in others)], ["---"] * (len(columns) + 1)]
    cells += [[decoder.text(row), row.model, *(column.text(row) for column in others)] for row in rows]
    lines = ["| " + " | ".join(map(_markdown, line)) + " |\n" for line in cells]
    notes = [f"- {GOLD_NOTE}\n"] if any(row.by_gold for row in rows) else []
    write_text(path, [*lines, "\n", *(f"- **{column.heading}**: {column.meaning}\n" for column in columns), *notes])


def _markdown(text: str) -> str:
    """A cell of a Markdown table: one line, in which nothing begins a column or an element."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def terminal_table(rows: Sequence[Row], width: int = WIDE, columns: Sequence[Column] = ()) -> rich.table.Table:
    """The table for a terminal of `width` columns, at least 100, a section for each model.

    Below 120 columns an interval stands under its mean, so that nothing is cut off. `columns` as in `write_markdown`.
    """
    shown = [column for column in columns or filled(rows) if column.narrow]
    grouped = families(rows)
    names = [f"{model}: {', '.join(row.decoder for row in members)}" for model, members in grouped.items()]
    table = rich.table.Table(
        title=rich.text.Text("\n".join(map(one_line, names))),
        title_justify="left",
        caption=rich.text.Text(_legend(rows, shown)),
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    for column in shown:
        table.add_column(column.narrow, justify="left" if column.heading in LEFT else "right", no_wrap=True)
    for members in grouped.values():
        for row in members:
            cells = [column.text(row) for column in shown]
            table.add_row(*(rich.text.Text(cell if width >= WIDE else cell.replace(" [", "\n[")) for cell in cells))
        table.add_section()
    return table


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the model they sample from, the tuned model with the untuned one that it is compared with."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.model.removesuffix(TUNED), []).append(row)
    return grouped


def _legend(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    left_out = sum(row.left_out + row.set_aside for row in rows)
    prompts = max((row.prompts + row.left_out + row.set_aside for row in rows), default=0)
    missing = f"; {left_out} responses without finite logits and scores left out" if left_out else ""
    gold = f"; {GOLD_NOTE}" if any(row.by_gold for row in rows) else ""
    headings = {column.heading for column in columns}
    headroom = "headroom: share of the gold pick's gain; " if "headroom" in headings else ""
    cost = f"TFLOP, sec.: for one of {prompts} prompts" if "TFLOP" in headings else f"{prompts} responses"
    kl = ", KL from the untuned model" if "KL" in headings else ""
    return (
        f"mean [interval]; gain: over the same model unguided; {headroom}"
        f"diversity, fluency{kl}: nats; {cost}{missing}{gold}"
    )
