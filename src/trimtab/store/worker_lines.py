"""What the live view shows below its table: which workers work on which stage."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.jupyter import JupyterMixin
from rich.text import Text

WORKERS_WIDTH = 80
"""The most letters of a line that names workers."""
MAX_WORKER_LINES = 4
"""The most stages whose workers are named."""


class Stacked(JupyterMixin):
    """One below the other, each as wide as it likes; a table in a cell of another would be measured too narrow."""

    def __init__(self, parts: Sequence[RenderableType]) -> None:
        self.parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.parts


def with_workers(table: RenderableType, working: Sequence[tuple[str, Sequence[str]]]) -> RenderableType:
    """The table, and below it who works on each stage."""
    lines = []
    for name, workers in working:
        line, left = f"{name}: {workers[0]}", list(workers[1:])
        while left and len(line) + len(left[0]) + len(f", and {len(left)} more") <= WORKERS_WIDTH:
            line += f", {left.pop(0)}"
        line += f" and {len(left)} more" if left else ""
        lines.append(Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
    return Stacked([table, *lines])
