"""The lines of the live view that say which workers work on which stage."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from trimtab.store.progress import Stage

WORKERS_WIDTH = 80
"""The most letters of a line that names workers."""
MAX_WORKER_LINES = 4
"""The most stages whose workers are named."""


def stages_with_workers(stages: "list[Stage]") -> "list[Stage]":
    """The stages whose workers are named, each in one line."""
    return [stage for stage in stages if stage.workers][:MAX_WORKER_LINES]


def with_workers(table: Table, stages: "list[Stage]") -> Table:
    """The table, and below it who works on each stage."""
    lines = []
    for stage in stages_with_workers(stages):
        line, left = f"{stage.name}: {stage.workers[0]}", stage.workers[1:]
        while left and len(line) + len(left[0]) + len(f", and {len(left)} more") <= WORKERS_WIDTH:
            line += f", {left.pop(0)}"
        lines.append(line + (f" and {len(left)} more" if left else ""))
    if not lines:
        return table
    both = Table.grid()
    both.add_row(table)
    for line in lines:
        both.add_row(Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
    return both
