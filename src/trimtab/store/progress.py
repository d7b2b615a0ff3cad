"""Progress of a run: the state, rate and remaining time of each stage, shown in one live view.

>>> with watching(quiet=True) as watch, watch("guide base") as advance:
...     advance(16, 96)
>>> watch.stages["guide base"].state
'made'
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from trimtab.store.worker_lines import MAX_WORKER_LINES, Stacked, with_workers

Advance = Callable[[float, int], None]
"""Called with the units that are done, of which the last may be a fraction, and their total."""
State = Literal["waits", "runs", "made", "used again", "stopped", "failed", "killed"]
WINDOW, WINDOW_SECONDS = 16, 120.0
"""Number of latest reports, or time that they span if that is longer, that give the rate, so that it follows a stage
whose blocks or batches get slower."""
REPORT_SECONDS = 0.5
"""Reports that follow each other faster, such as those of single tokens, count as one."""
LINE_SECONDS = 30.0
"""The time between two lines about a stage where no terminal is."""
MIN_NAME_WIDTH, MAX_NAME_WIDTH = 22, 26  # terminal columns for the name of a stage
NOTEBOOK_SECONDS = 0.25
"""The shortest time between two updates of a notebook's view while a stage runs."""


@dataclass
class Stage:
    """One stage: `done` of `total` prompts or batches; times in seconds since 1970; `rate` in prompts or batches a
    second. `workers` are those that work on it now, where there are several."""

    name: str
    state: State = "waits"
    done: float = 0
    total: int | None = None
    began: float | None = None
    updated: float | None = None
    rate: float | None = None
    workers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reports = deque[tuple[float, float]]()

    @property
    def in_progress(self) -> bool:
        """Whether the stage has reported and not ended: its last change was progress, not a change of state."""
        return self.state == "runs" and len(self._reports) > 0

    def report(self, now: float, done: float, total: int) -> None:
        """Note how much is done. The first report gives what an earlier session did, and counts for no rate."""
        self.updated, self.done, self.total = now, done, total
        if len(self._reports) > 1 and now - self._reports[-2][0] < REPORT_SECONDS:
            self._reports.pop()
        self._reports.append((now, done))
        while len(self._reports) > WINDOW and now - self._reports[0][0] > WINDOW_SECONDS:
            self._reports.popleft()
        (before, first), (last, latest) = self._reports[0], self._reports[-1]
        self.rate = (latest - first) / (last - before) if last > before and latest > first else None

    def seconds_left(self, now: float) -> float | None:
        """The remaining time at the current rate; None if that is unknown."""
        if self.rate is None or self.total is None or self.updated is None:
            return None
        return max((self.total - self.done) / self.rate - (now - self.updated), 0.0)

    @property
    def counts(self) -> str:
        """The whole units that are done, and all; empty if unknown."""
        return f"{math.floor(self.done + 1e-9)}/{self.total}" if self.total else ""

    def seconds(self, now: float) -> float | None:
        """The time since it began, or from its begin to its end; None if it has not begun."""
        if self.began is None or self.updated is None:
            return None
        return (now if self.state == "runs" else self.updated) - self.began


class Watch:
    """The stages of a run. `with watch(name) as advance` runs a stage, which reports its progress by `advance`.

    `listeners` are called with each stage that changes. `print` shows a line above the live view. `results` is a table
    of what is known so far, shown below the stages; `show` sets it, or without a terminal shows a line of what is new.
    """

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.listeners: list[Callable[[Stage], None]] = []
        self.print: Callable[[str], None] = lambda line: None
        self.results: Table | None = None
        self.show: Callable[[Table, str], None] = self._set_results

    def _set_results(self, table: Table, line: str) -> None:
        self.results = table

    def plan(self, names: Iterable[str]) -> None:
        """Set the stages to come, in order."""
        self.stages = {name: Stage(name) for name in names}

    def used_again(self, name: str) -> None:
        """Note that an earlier session made the stage."""
        stage = self.stages.setdefault(name, Stage(name))
        if stage.state == "waits":
            self._change(stage, "used again")

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Advance]:
        try:
            yield self.begin(name)
        except BaseException:
            self.stop()
            raise
        self.end(name, "made")

    def begin(self, name: str) -> Advance:
        """Begin a stage, which runs until `end`; other stages may run at the same time."""
        stage = self.stages[name] = Stage(name, began=time.time())

        def advance(done: float, total: int) -> None:
            stage.report(time.time(), done, total)
            self._notify(stage)

        self._change(stage, "runs")
        return advance

    def working(self, name: str, workers: Iterable[str]) -> None:
        """Note which workers work on a stage."""
        self.stages[name].workers = list(workers)

    def end(self, name: str, state: State) -> None:
        """End a stage that has begun."""
        self._change(self.stages[name], state)

    def stop(self) -> None:
        """End all stages that run, unfinished: an error or a signal ends the work on them."""
        for stage in self.stages.values():
            if stage.state == "runs":
                self._change(stage, "stopped")

    def _change(self, stage: Stage, state: State) -> None:
        stage.state, stage.updated = state, time.time()
        self._notify(stage)

    def _notify(self, stage: Stage) -> None:
        for listener in self.listeners:
            listener(stage)


def throttled(seconds: float, update: Callable[[], None]) -> Callable[[Stage], None]:
    """A listener that calls `update` when a stage begins or ends, and for progress at most every `seconds`."""
    updated = 0.0

    def listener(stage: Stage) -> None:
        nonlocal updated
        if not stage.in_progress or time.monotonic() - updated >= seconds:
            update()
            updated = time.monotonic()

    return listener


View = Callable[[list[Stage], float, int], RenderableType]
"""Draws stages at a time in at most a number of lines."""


@contextlib.contextmanager
def watching(*, quiet: bool = False, console: Console | None = None, table: View | None = None) -> Iterator[Watch]:
    """A watch to pass to a run. Unless `quiet`, `table` shows it live on standard error or in a notebook's cell; where
    standard error is no terminal, `lines_of` tells of it."""
    watch = Watch()
    if quiet:
        yield watch
        return
    console = console or Console(stderr=True)
    watch.print = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)

    def view() -> Stacked:
        stages, below = list(watch.stages.values()), 0 if watch.results is None else watch.results.row_count + 4
        shown = (table or stage_table)(stages, time.time(), max(console.height - 3 - below, 5))
        return Stacked([shown] if watch.results is None else [shown, "", watch.results])

    if console.is_jupyter:  # in place; rich's own live view would need widgets
        from IPython.display import display

        shown = display(view(), display_id=True)
        watch.listeners.append(throttled(NOTEBOOK_SECONDS, lambda: shown.update(view())))
        yield watch
    elif console.is_terminal:
        with Live(get_renderable=view, console=console, refresh_per_second=4):
            yield watch
    else:
        watch.show = lambda table, line: watch.print(line)
        with lines_of(watch):
            yield watch


@contextlib.contextmanager
def lines_of(watch: Watch, seconds: float = LINE_SECONDS) -> Iterator[None]:
    """Where no terminal is: a line when a stage begins and when it ends, and every `seconds` one of each that runs."""

    def say(stage: Stage, words: str) -> None:
        watch.print(f"{time.strftime('%H:%M:%S')} {stage.name}: {words}")

    def change(stage: Stage) -> None:
        if stage.in_progress or stage.state == "waits":
            return
        took = f" after {duration(stage.seconds(time.time()))}" if stage.began is not None else ""
        say(stage, "begins" if stage.state == "runs" else f"{stage.state}{took}")

    def beat() -> None:
        while not ended.wait(seconds):
            now = time.time()
            for stage in [stage for stage in list(watch.stages.values()) if stage.state == "runs"]:
                left = stage.seconds_left(now)
                known = [stage.counts, pace(stage.rate), "" if left is None else f"{duration(left)} left"]
                say(stage, ", ".join(filter(None, known)) or f"runs for {duration(stage.seconds(now))}")

    ended = threading.Event()
    thread = threading.Thread(target=beat, daemon=True)
    watch.listeners.append(change)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        watch.listeners.remove(change)


def stage_table(stages: list[Stage], now: float, height: int) -> RenderableType:
    """The stages in at most `height` lines: the latest ones that have begun, and how many wait."""
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", width=name_width(stage.name for stage in stages))
    table.add_column(min_width=8, max_width=24)  # the only column that shrinks in a narrow terminal
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    working = working_of(stages)
    height -= len(working)
    begun = [stage for stage in stages if stage.state != "waits"]
    for stage in begun[-(height - 1) :]:
        share = ProgressBar(total=stage.total, completed=stage.done) if stage.total else stage.state
        left = stage.seconds_left(now) if stage.state in ("runs", "killed") else None
        rest = f"{duration(left)} left" if left is not None else stage.state if stage.total else ""
        rest = f"killed, {rest}" if left is not None and stage.state == "killed" else rest
        table.add_row(stage.name, share, stage.counts, pace(stage.rate), duration(stage.seconds(now)), rest)
    waiting = [stage.name for stage in stages if stage.state == "waits"]
    if waiting:
        table.add_row(waiting[0], "waits" + (f", {len(waiting) - 1} more" if waiting[1:] else ""))
    return with_workers(table, working)


def working_of(stages: list[Stage]) -> list[tuple[str, list[str]]]:
    """The stages whose workers are to be named, and these workers."""
    return [(stage.name, stage.workers) for stage in stages if stage.workers][:MAX_WORKER_LINES]


def name_width(names: Iterable[str]) -> int:
    """The width of a column of names that leaves room for the others at 80 columns; longer names take two lines."""
    return min(max([MIN_NAME_WIDTH, *map(len, names)]), MAX_NAME_WIDTH)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; empty if unknown.

    >>> duration(3723.4)
    '1:02:03'
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def pace(rate: float | None) -> str:
    """A rate per second, minute or hour, whichever gives a readable number; empty if unknown.

    >>> pace(0.05)
    '3.0/min'
    """
    if rate is None:
        return ""
    for count, unit in ((1, "s"), (60, "min")):
        if rate * count >= 1:
            return f"{rate * count:.1f}/{unit}"
    return f"{rate * 3600:.1f}/h"
