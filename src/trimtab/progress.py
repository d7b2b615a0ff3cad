"""Progress of a run: one live view of all its stages. Knows nothing of what the stages do.

>>> with watching(quiet=True) as watch, watch("guide base") as advance:
...     advance(16, 96)
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]
"""Told of what is done so far, and of how much there is to do."""
Watch = Callable[[str], AbstractContextManager[Advance]]


@contextlib.contextmanager
def watching(*, quiet: bool = False, console: Console | None = None) -> Iterator[Watch]:
    """A live view on standard error; the function it gives opens a stage's bar."""
    if quiet:
        yield _silent
        return
    columns = (
        TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console or Console(stderr=True)) as progress:

        @contextlib.contextmanager
        def stage(name: str) -> Iterator[Advance]:
            task = progress.add_task(name, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
            total = progress.tasks[task].total or 1
            progress.update(task, completed=total, total=total)
            progress.stop_task(task)

        yield stage


@contextlib.contextmanager
def _silent(name: str) -> Iterator[Advance]:
    yield lambda done, total: None
