"""The lines of the live view that say which workers work on which stage."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

WORKERS_WIDTH = 80
"""The most letters of a line that names workers."""
MAX_WORKER_LINES = 4
"""The most stages whose workers are named."""


def with_workers(table: Table, working: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """The table, and below it who works on each stage."""
    if not working:
        return table
    both = Table.grid()
    both.add_row(table)
    for name, workers in working:
        line, left = f"{name}: {workers[0]}", list(workers[1:])
        while left and len(line) + len(left[0]) + len(f", and {len(left)} more") <= WORKERS_WIDTH:
            line += f", {left.pop(0)}"
        line += f" and {len(left)} more" if left else ""
        both.add_row(Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
    return both
