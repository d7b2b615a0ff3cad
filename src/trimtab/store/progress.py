"""Progress of a run: every stage, how far it is, how fast and how long it still takes. One live view shows it.

Knows nothing of what the stages do, or of files: whoever wants to hear of it is one of `listeners`.

    >>> with watching(quiet=True) as watch, watch("guide base") as advance:
    ...     advance(16, 96)
    >>> watch.stages["guide base"].state
    'made'
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

Advance = Callable[[int, int], None]
"""Told of what is done so far, and of how much there is to do."""
State = Literal["waits", "runs", "made", "used again", "stopped", "failed"]
WINDOW = 16
"""Reports that the rate is taken over: it follows a stage whose blocks or batches get slower."""

NOTEBOOK_SECONDS = 0.25
"""A notebook's view is drawn at most so often, besides wherever a stage begins or ends."""


@dataclass
class Stage:
    """One stage: `done` of `total` prompts or batches; times in seconds since 1970, `rate` in units a second."""

    name: str
    state: State = "waits"
    done: int = 0
    total: int | None = None
    began: float | None = None
    updated: float | None = None
    rate: float | None = None
    reports: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=WINDOW), repr=False)

    def report(self, now: float, done: int, total: int) -> None:
        """Note how far the stage is. The first report says where it began, and counts for no rate."""
        self.updated, self.done, self.total = now, done, total
        self.reports.append((now, done))
        (before, first), (last, latest) = self.reports[0], self.reports[-1]
        self.rate = (latest - first) / (last - before) if last > before and latest > first else None

    def seconds_left(self, now: float) -> float | None:
        """How long it still takes at its rate; None where that is not known."""
        if self.rate is None or self.total is None or self.updated is None:
            return None
        return max((self.total - self.done) / self.rate - (now - self.updated), 0.0)

    def seconds(self, now: float) -> float | None:
        """Since it began, until it ended."""
        if self.began is None or self.updated is None:
            return None
        return (now if self.state == "runs" else self.updated) - self.began


class Watch:
    """What a run tells those who watch it. `watch(name)` opens a stage and gives the function to report with."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.listeners: list[Callable[[Stage], None]] = []
        self.say: Callable[[str], None] = lambda line: None

    def plan(self, names: Iterable[str]) -> None:
        """The stages that are to come, in their order."""
        self.stages = {name: Stage(name) for name in names}

    def used_again(self, name: str) -> None:
        """The stage was made before."""
        stage = self.stages.setdefault(name, Stage(name))
        if stage.state == "waits":
            self._change(stage, "used again")

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Advance]:
        advance = self.begin(name)
        try:
            yield advance
        except BaseException:
            self.end(name, "stopped")
            raise
        self.end(name, "made")

    def begin(self, name: str) -> Advance:
        """The stage runs from now on, beside others it may be, until it is told to `end`."""
        stage = self.stages[name] = Stage(name, began=time.time())

        def advance(done: int, total: int) -> None:
            stage.report(time.time(), done, total)
            self._tell(stage)

        self._change(stage, "runs")
        return advance

    def end(self, name: str, state: State) -> None:
        """The stage, which has begun, runs no longer."""
        self._change(self.stages[name], state)

    def _change(self, stage: Stage, state: State) -> None:
        stage.state, stage.updated = state, time.time()
        self._tell(stage)

    def _tell(self, stage: Stage) -> None:
        for listener in self.listeners:
            listener(stage)


View = Callable[[list[Stage], float, int], Table]
"""Draws stages as they are at a time, in at most so many lines."""


@contextlib.contextmanager
def watching(*, quiet: bool = False, console: Console | None = None, table: View | None = None) -> Iterator[Watch]:
    """What a run is to be given; unless `quiet`, it is shown live on standard error, or in a notebook's cell, as
    `table` has it."""
    watch = Watch()
    if quiet:
        yield watch
        return
    console = console or Console(stderr=True)

    def view() -> Table:
        return (table or stage_table)(list(watch.stages.values()), time.time(), max(console.height - 3, 5))

    if console.is_jupyter:
        with _in_notebook(watch, view, console):
            yield watch
        return
    with Live(get_renderable=view, console=console, refresh_per_second=4):
        watch.say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
        yield watch


@contextlib.contextmanager
def _in_notebook(watch: Watch, view: Callable[[], Table], console: Console) -> Iterator[None]:
    """Inside, what the watch is told is shown in the notebook's cell, in place; rich's own view would want widgets."""
    from IPython.display import display

    place = display(view(), display_id=True)
    shown = time.monotonic()

    def show(stage: Stage) -> None:
        nonlocal shown
        between = stage.reports and stage.state == "runs"
        if not between or time.monotonic() - shown >= NOTEBOOK_SECONDS:
            place.update(view())
            shown = time.monotonic()

    before = watch.say
    watch.listeners.append(show)
    watch.say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
    try:
        yield
    finally:
        watch.listeners.remove(show)
        watch.say = before
        place.update(view())


def stage_table(stages: list[Stage], now: float, height: int) -> Table:
    """The stages in at most `height` lines: the last that have begun, and how many wait."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=22)
    table.add_column(min_width=8, max_width=24)  # the one that gives way in a narrow terminal
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    begun = [stage for stage in stages if stage.state != "waits"]
    for stage in begun[-(height - 1) :]:
        share = ProgressBar(total=stage.total, completed=stage.done) if stage.total else stage.state
        counts = f"{stage.done}/{stage.total}" if stage.total else ""
        left = stage.seconds_left(now) if stage.state == "runs" else None
        rest = f"{duration(left)} left" if left is not None else stage.state if stage.total else ""
        table.add_row(stage.name, share, counts, pace(stage.rate), duration(stage.seconds(now)), rest)
    waiting = [stage.name for stage in stages if stage.state == "waits"]
    if waiting:
        table.add_row(waiting[0], "waits" + (f", and {len(waiting) - 1} more" if waiting[1:] else ""))
    return table


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; nothing where they are not known.

    >>> duration(3723.4)
    '1:02:03'
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def pace(rate: float | None) -> str:
    """Units a second, a minute or an hour: whichever gives a number that one can read.

    >>> pace(0.05)
    '3.0/min'
    """
    if rate is None:
        return ""
    for count, unit in ((1, "s"), (60, "min")):
        if rate * count >= 1:
            return f"{rate * count:.1f}/{unit}"
    return f"{rate * 3600:.1f}/h"
