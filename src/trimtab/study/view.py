"""A study on the terminal: a live table of its cells, and the plan that a dry run prints."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trimtab.store.progress import MAX_NAME_WIDTH, Stage, duration, name_width, stage_table, working_of
from trimtab.store.text_table import print_rows
from trimtab.store.worker_lines import with_workers
from trimtab.study.plan import StudyPlan, Task

DONE = ("made", "used again")
Line = tuple[str, list[Stage]]
"""A name, such as a cell's, and the progress of its tasks."""


class StudyView:
    """Draws the progress of a study cell by cell once it knows the plan; until then as that of a single run."""

    def __init__(self) -> None:
        self._plan: StudyPlan | None = None

    def shows(self, plan: StudyPlan) -> None:
        self._plan = plan

    def __call__(self, stages: list[Stage], now: float, height: int) -> RenderableType:
        """A line for the tasks that cells share, one for each cell, and one for the report."""
        if self._plan is None:
            return stage_table(stages, now, height)
        table = Table.grid(padding=(0, 2))
        lines = _lines(self._plan, stages)
        table.add_column(overflow="fold", width=name_width(name for name, _ in lines))
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold", max_width=MAX_NAME_WIDTH)
        table.add_column(min_width=8, max_width=24)
        table.add_column(justify="right", no_wrap=True)
        shown = _fitting(lines, height - 1 - len(working_of(stages)))
        for name, members in shown:
            table.add_row(*_row(name, members, now))
        if len(shown) < len(lines):
            table.add_row(f"and {len(lines) - len(shown)} more")
        return with_workers(table, working_of(stages))


def _lines(plan: StudyPlan, stages: Sequence[Stage]) -> list[Line]:
    """The tasks that cells share, those of each cell alone, and what belongs to no task (the report)."""
    cell_of = {run.name: run.cell.name for run in plan.study.runs}
    groups: dict[str, list[Stage]] = {"shared": [], **{cell.name: [] for cell in plan.study.cells}}
    by_name = {stage.name: stage for stage in stages}
    for task in plan.tasks.values():
        if (stage := by_name.pop(task.name, None)) is not None:
            cells = {cell_of[run] for run in task.runs}
            groups[cells.pop() if len(cells) == 1 and len(plan.study.cells) > 1 else "shared"].append(stage)
    return [line for line in groups.items() if line[1]] + [(name, [stage]) for name, stage in by_name.items()]


def _fitting(lines: Sequence[Line], height: int) -> Sequence[Line]:
    """The lines that there is room for: running or failed ones first, then those that wait, then those done."""
    if len(lines) <= height:
        return lines

    def rank(index: int) -> int:
        states = {stage.state for stage in lines[index][1]}
        return 0 if states & {"runs", "failed"} else 1 if "waits" in states else 2

    chosen = sorted(range(len(lines)), key=rank)[: max(height - 1, 1)]
    return [lines[index] for index in sorted(chosen)]


def _row(name: str, stages: Sequence[Stage], now: float) -> list[Text | ProgressBar | str]:
    """The name, how many tasks are done, which one runs, its bar, and the time that it still takes."""
    done = sum(stage.state in DONE for stage in stages)
    running = [stage for stage in stages if stage.state == "runs"]
    failed = [stage for stage in stages if stage.state == "failed"]
    bar: Text | ProgressBar | str = ""
    left = ""
    if running:
        stage = running[0]
        state = stage.name.replace(f": {name}", "") + (f" and {len(running) - 1} more" if running[1:] else "")
        bar = ProgressBar(total=stage.total, completed=stage.done) if stage.total else ""
        seconds = stage.seconds_left(now)
        left = f"{duration(seconds)} left" if seconds is not None else ""
    elif failed:
        state = f"failed: {failed[0].name.partition(':')[0]}"
    else:
        state = "done" if done == len(stages) else "waits"
    return [Text(name), f"{done}/{len(stages)}", Text(state), bar, left]


def print_plan(plan: StudyPlan, console: Console) -> None:
    """Print each step: its artifacts, how many were made, and how many runs share one; and each cell: the number of its
    runs, and the steps that any of them lacks."""
    print_rows(console, ["step", "artifacts", "made", "missing", "runs that share one"], _steps(plan))
    print_rows(console, ["cell", "runs", "missing"], _cells(plan))


def _steps(plan: StudyPlan) -> list[list[str]]:
    rows = []
    by_step: dict[str, list[Task]] = {}
    for task in plan.tasks.values():
        by_step.setdefault(task.step.name, []).append(task)
    for step, tasks in by_step.items():
        made = sum(task.artifact.whole for task in tasks)
        counts = [len(task.runs) for task in tasks]
        low, high = min(counts), max(counts)
        shared = str(low) if low == high else f"{low} to {high}"
        rows.append([step, str(len(tasks)), str(made), str(len(tasks) - made), shared])
    return rows


def _cells(plan: StudyPlan) -> list[list[str]]:
    rows = []
    for cell in plan.study.cells:
        runs = [run for run in plan.study.runs if run.cell is cell]
        needed = {digest: step for run in runs for step, digest in plan.artifacts[run.name].items()}
        missing = Counter(step for digest, step in needed.items() if not plan.tasks[digest].artifact.whole)
        listed = ", ".join(step if count == 1 else f"{count} {step}" for step, count in missing.items())
        rows.append([cell.name, str(len(runs)), listed or "nothing"])
    return rows
