"""A study on the terminal: one live table of its cells, and the plan that a dry run prints.

Knows nothing of what the stages do.

    >>> view = StudyView()
    >>> with watching(table=view) as watch:                                             # doctest: +SKIP
    ...     run_study(study, Path("runs"), Assets(), watch, view)
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import rich.box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trimtab.store.progress import Stage, duration, stage_table
from trimtab.study.plan import Plan, Task

DONE = ("made", "used again")


class StudyView:
    """Draws the stages of a study cell by cell, once it has been told the plan; until then as those of a run."""

    def __init__(self) -> None:
        self._plan: Plan | None = None

    def shows(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, stages: list[Stage], now: float, height: int) -> Table:
        """What all cells share, then a line for each cell: tasks done, and what is at work in it."""
        plan = self._plan
        if plan is None:
            return stage_table(stages, now, height)
        by_name = {stage.name: stage for stage in stages}
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, min_width=22)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(min_width=8, max_width=24)
        table.add_column(justify="right", no_wrap=True)
        groups = _groups(plan)
        lines = [(name, [by_name[task.name] for task in tasks if task.name in by_name]) for name, tasks in groups]
        planned = {task.name for task in plan.tasks.values()}
        lines += [(stage.name, [stage]) for stage in stages if stage.name not in planned]  # the report
        kept = _fitting(lines, height - 1)
        for name, members in kept:
            table.add_row(*_line(name, members, now))
        if len(kept) < len(lines):
            table.add_row(f"and {len(lines) - len(kept)} more")
        return table


def _groups(plan: Plan) -> list[tuple[str, list[Task]]]:
    """The tasks that cells share, and those of each cell alone."""
    cell_of = {run.name: run.cell.name for run in plan.study.runs}
    groups: dict[str, list[Task]] = {"shared": []}
    for cell in plan.study.cells:
        groups[cell.name] = []
    for task in plan.tasks.values():
        cells = {cell_of[run] for run in task.runs}
        groups[cells.pop() if len(cells) == 1 and len(plan.study.cells) > 1 else "shared"].append(task)
    return [(name, tasks) for name, tasks in groups.items() if tasks]


def _fitting(lines: list[tuple[str, list[Stage]]], height: int) -> list[tuple[str, list[Stage]]]:
    """As many lines as there is room for: those at work or failed first, then those that wait, then those done."""
    if len(lines) <= height:
        return lines

    def rank(line: tuple[str, list[Stage]]) -> int:
        states = {stage.state for stage in line[1]}
        return 0 if states & {"runs", "failed"} else 1 if "waits" in states else 2

    chosen = sorted(range(len(lines)), key=lambda place: (rank(lines[place]), place))[: max(height - 1, 1)]
    return [lines[place] for place in sorted(chosen)]


def _line(name: str, stages: Sequence[Stage], now: float) -> list[Text | ProgressBar | str]:
    done = sum(stage.state in DONE for stage in stages)
    running = [stage for stage in stages if stage.state == "runs"]
    failed = [stage for stage in stages if stage.state == "failed"]
    bar: Text | ProgressBar | str = ""
    left = ""
    if running:
        stage = running[0]
        said = stage.name.replace(f": {name}", "") + (f" and {len(running) - 1} more" if running[1:] else "")
        bar = ProgressBar(total=stage.total, completed=stage.done) if stage.total else ""
        seconds = stage.seconds_left(now)
        left = f"{duration(seconds)} left" if seconds is not None else ""
    elif failed:
        said = f"failed: {failed[0].name.partition(':')[0]}"
    else:
        said = "done" if done == len(stages) else "waits"
    return [Text(name), f"{done}/{len(stages)}", Text(said), bar, left]


def plan_table(plan: Plan) -> Table:
    """How many artifacts each stage has, how many of them have been made, and among how many runs they are shared."""
    table = Table("stage", "artifacts", "made", "missing", "runs that share one", box=rich.box.SIMPLE_HEAD)
    stages: dict[str, list[Task]] = {}
    for task in plan.tasks.values():
        stages.setdefault(task.step.name, []).append(task)
    for stage, tasks in stages.items():
        made = sum(task.artifact.whole for task in tasks)
        counts = sorted({len(task.runs) for task in tasks})
        shared = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        table.add_row(Text(stage), str(len(tasks)), str(made), str(len(tasks) - made), shared)
    return table


def cell_table(plan: Plan) -> Table:
    """Each cell with its repetitions, and the stages that are missing in any of them."""
    table = Table("cell", "runs", "missing", box=rich.box.SIMPLE_HEAD)
    for cell in plan.study.cells:
        runs = [run for run in plan.study.runs if run.cell is cell]
        needed = {digest: stage for run in runs for stage, digest in plan.artifacts[run.name].items()}
        missing = Counter(stage for digest, stage in needed.items() if not plan.tasks[digest].artifact.whole)
        table.add_row(Text(cell.name), str(len(runs)), Text(_spoken(missing) or "nothing"))
    return table


def _spoken(missing: Mapping[str, int]) -> str:
    return ", ".join(stage if count == 1 else f"{count} {stage}" for stage, count in missing.items())
