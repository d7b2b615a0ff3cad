"""What is known of a run before it ends: a small table that fills row by row, and a line for each new row.

>>> preliminary_table(Experiment(name="demo"), []).row_count
1
"""

from collections.abc import Sequence

import rich.box
from rich.table import Table
from rich.text import Text

from trimtab.config.experiment import Experiment
from trimtab.evaluation.evaluate import Row
from trimtab.report.overview import table_columns

COLUMNS = ("decoder", "reward", "gain", "fluency", "seconds")  # they fit into 80 characters


def preliminary_table(experiment: Experiment, rows: Sequence[Row]) -> Table:
    """A line for each decoder of the experiment, which is empty until the decoder has been measured."""
    by_name = {row.decoder: row for row in rows}
    columns = [column for column in table_columns(experiment, rows) if column.name in COLUMNS[1:]]
    table = Table(box=rich.box.SIMPLE_HEAD, show_edge=False, padding=0, title=_progress(experiment, rows))
    table.title_justify = "left"
    table.add_column("decoder", overflow="fold", max_width=20)
    for column in columns:
        table.add_column(column.heading, no_wrap=True, min_width=len(column.heading))
    for decoder in experiment.guide.decoders:
        row = by_name.get(decoder.name)
        cells = [decoder.name, *("" if row is None else column.text(row) for column in columns)]
        table.add_row(*map(Text, cells))
    return table


def preliminary_line(experiment: Experiment, rows: Sequence[Row], decoder: str) -> str:
    """What was found of one decoder, and how many are measured."""
    (row,) = [row for row in rows if row.decoder == decoder]
    columns = [column for column in table_columns(experiment, rows) if column.name in COLUMNS[1:]]
    found = ", ".join(f"{column.heading} {text}" for column in columns if (text := column.text(row)))
    return f"{decoder}: {found} ({_progress(experiment, rows)})"


def _progress(experiment: Experiment, rows: Sequence[Row]) -> str:
    return f"preliminary: {len(rows)} of {len(experiment.guide.decoders)} decoders"
