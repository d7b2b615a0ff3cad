"""The live table of a study: a line for each cell, what is at work first where there is little room."""

import io
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from trimtab.pipeline.step import Step
from trimtab.store.artifacts import Artifact
from trimtab.store.progress import Stage
from trimtab.study.plan import StudyPlan, Task
from trimtab.study.view import StudyView

CELLS = [SimpleNamespace(name=f"cell-{number}") for number in range(6)]


def plan() -> StudyPlan:
    runs = [SimpleNamespace(name=cell.name, cell=cell) for cell in CELLS]
    shared = Task(Step("data", print), Artifact("data", "d", Path("d"), {}), (), [run.name for run in runs], "data")
    tunes = {
        run.name: Task(
            Step("tune", print), Artifact("tune", run.name, Path(run.name), {}), ("d",), [run.name], f"tune: {run.name}"
        )
        for run in runs
    }
    return StudyPlan(SimpleNamespace(cells=CELLS, runs=runs), {"d": shared, **tunes}, {})


def shown(stages: list[Stage], height: int = 40) -> list[str]:
    view = StudyView()
    view.shows(plan())
    console = Console(file=io.StringIO(), width=100)
    console.print(view(stages, now=10.0, height=height))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


STATES = ["made", "runs", "failed", "waits", "used again", "waits"]
STAGES = [
    Stage("data", "made"),
    *(Stage(f"tune: {cell.name}", state) for cell, state in zip(CELLS, STATES, strict=True)),
]  # fmt: skip


def test_each_cell_has_a_line_that_says_where_it_is():
    assert shown(STAGES) == [
        "shared 1/1 done", "cell-0 1/1 done", "cell-1 0/1 tune", "cell-2 0/1 failed: tune", "cell-3 0/1 waits",
        "cell-4 1/1 done", "cell-5 0/1 waits",
    ]  # fmt: skip


def test_what_runs_and_what_failed_is_shown_first_where_there_is_little_room():
    lines = shown(STAGES, height=5)
    assert lines == ["cell-1 0/1 tune", "cell-2 0/1 failed: tune", "cell-3 0/1 waits", "and 4 more"]


def test_the_report_has_a_line_too():
    assert shown([*STAGES, Stage("report", "runs")])[-1] == "report 0/1 report"


def test_before_the_plan_is_known_stages_are_shown_as_a_run_s():
    console = Console(file=io.StringIO(), width=100)
    console.print(StudyView()([Stage("data", "runs")], now=1.0, height=10))
    assert "data" in console.file.getvalue()
