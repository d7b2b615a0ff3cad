"""Runs a study: makes the missing tasks of its plan, whatever fails, and writes the report of what is finished."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.assets.resolve import Assets
from trimtab.errors import TrimtabError
from trimtab.evaluation.cells import CellRow, summarise_cells
from trimtab.executors.driver import Driver
from trimtab.executors.options import WorkerOptions
from trimtab.executors.run import share_of_threads, show_memory, workers_for
from trimtab.executors.tasks import Manner, Task
from trimtab.executors.work import Setup, WorkerFault
from trimtab.executors.workers import Workers
from trimtab.pipeline.checks import check_lines
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.memory import memory_lines, spreads
from trimtab.pipeline.reports import report_folder
from trimtab.report.study_page import StudyFacts, write_study_report
from trimtab.store.artifacts import RunDirectory
from trimtab.store.files import link_to, write_json
from trimtab.store.lock import run_lock
from trimtab.store.log import recording
from trimtab.store.progress import Watch
from trimtab.store.remote import runs_folder
from trimtab.study.collect import collect, missing_numbers, name_of
from trimtab.study.plan import StudyPlan, plan_study
from trimtab.study.study_file import Run, Study
from trimtab.study.view import StudyView

INDEX = "study.json"
"""The file that says which artifacts belong to which run, and with how many threads they were made."""
HERE = WorkerOptions()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a study gave: the rows of cells that have a finished run, and the reason of each failed run."""

    rows: Sequence[CellRow]
    failures: Mapping[str, str]
    report: Path


def run_study(
    study: Study,
    runs: str | Path,
    assets: Assets,
    watch: Watch,
    view: StudyView,
    who: WorkerOptions = HERE,
) -> Outcome:
    """Make what is missing in the folder or at the URL `runs`/`study.name`, then write its `report/`.

    `who` says who does the work: this process if not given. A task that fails stops what would be made from it, and
    nothing else.

    Raises:
        TrimtabError: the study cannot be begun, or its report not be written.
    """
    directory = RunDirectory(runs_folder(runs) / study.name)
    with run_lock(directory.path) as previous, recording(directory.path, watch, previous):
        spread = any(spreads(run.experiment) for run in study.runs)
        with workers_for(Setup(directory.path, assets), who, spread=spread) as workers:
            check_lines([(steps(run.experiment), run.experiment) for run in study.runs], assets)
            plan = plan_study(study, directory, assets)
            if who.ray is None:
                _tell_memory(study, assets, watch, who.jobs or 1)
            workers.check(_missing_steps(plan))
            view.shows(plan)
            count = max(len(workers.all()), 1)
            threads = workers.threads or who.threads or share_of_threads(count)
            _write_index(plan, directory, threads)
            failed = carry_out_study(plan, directory, workers, watch, Manner(threads, count))
        failures = _failed_runs(plan, failed)
        for run in study.runs:
            if run.name not in failures and (reason := missing_numbers(plan, run)) is not None:
                failures[run.name] = reason
        finished = [run for run in study.runs if run.name not in failures]
        _link_models(plan, finished, directory)
        with watch("report"):
            rows = _report(plan, finished, failures, directory, assets)
    return Outcome(rows, failures, directory.path / "report")


def carry_out_study(
    plan: StudyPlan, directory: RunDirectory, workers: Workers, watch: Watch, manner: Manner
) -> dict[str, str]:
    """Make all that is missing and can be made.

    Returns:
        The digests of the tasks that failed, each with the reason. What would be made from them is not tried, and
        nothing of runs whose functions failed when they were tried, or what those read.
    """
    values = {run.name: run.experiment.model_dump_json(exclude_unset=True) for run in plan.study.runs}
    tasks = {
        digest: Task(
            task.step,
            task.artifact,
            {step: plan.tasks[digest].artifact for step, digest in task.inputs.items()},
            values[task.runs[0]],
            task.name,
        )
        for digest, task in plan.tasks.items()
    }
    watch.plan(task.name for task in tasks.values())
    # a run whose functions fail when they are tried makes nothing more
    first = set[str]()
    for digest in reversed([*plan.tasks]):  # each is after its inputs
        if plan.tasks[digest].step.folder == "trial" or digest in first:
            first |= {digest, *plan.tasks[digest].inputs.values()}
    failed = Driver(
        [task for digest, task in tasks.items() if digest in first], directory, workers, watch, manner
    ).run()
    lost = _failed_runs(plan, {digest: str(error) for digest, error in failed.items()})
    rest = [task for digest, task in tasks.items() if not lost.keys() >= {*plan.tasks[digest].runs}]
    failed |= Driver(rest, directory, workers, watch, manner).run()
    for digest, error in failed.items():
        if not isinstance(error, TrimtabError | WorkerFault):
            _log.error("unexpected error in %s", plan.tasks[digest].name, exc_info=error)
            failed[digest] = WorkerFault(f"{type(error).__name__}: {error} (the log has the traceback)")
        else:
            _log.error("%s: %s", plan.tasks[digest].name, error)
    return {digest: str(error) for digest, error in failed.items()}


def _missing_steps(plan: StudyPlan) -> list[tuple[str, list[str]]]:
    """The experiments of runs that lack steps, as JSON, with the names of these steps; each step once."""
    values = {run.name: run.experiment.model_dump_json(exclude_unset=True) for run in plan.study.runs}
    missing: dict[str, list[str]] = {}
    for task in plan.tasks.values():
        if not task.artifact.whole:
            missing.setdefault(values[task.runs[0]], []).append(task.step.name)
    return list(missing.items())


def _failed_runs(plan: StudyPlan, failed: Mapping[str, str]) -> dict[str, str]:
    """The runs that need a failed task, each with the first such step and its reason."""
    failures: dict[str, str] = {}
    for run, artifacts in plan.artifacts.items():
        for step, digest in artifacts.items():
            if digest in failed:
                failures.setdefault(run, f"{step}: {failed[digest]}")
    return failures


def _write_index(plan: StudyPlan, directory: RunDirectory, threads: int) -> None:
    """Write which artifacts belong to which run; warn where some were made with another number of threads."""
    file = directory.path / INDEX
    whole = [task.artifact for task in plan.tasks.values() if task.artifact.whole]
    with contextlib.suppress(FileNotFoundError, ValueError):
        before = json.loads(file.read_text(encoding="utf-8"))["threads"]
        if before != threads and whole:
            _log.warning(
                "this study was begun with %d threads a process and goes on with %d: what is made from here on can "
                "differ in its last digits; --threads %d keeps to it", before, threads, before,
            )  # fmt: skip
    runs = {
        run.name: {
            "cell": run.cell.name,
            "fields": {**run.cell.fields, **run.repeat.fields},
            "artifacts": {step: plan.artifact(run, step).folder.name for step in plan.artifacts[run.name]},
        }
        for run in plan.study.runs
    }
    write_json(file, {"threads": threads, "runs": runs})
    for artifact in whole:
        directory.tidy(artifact)


def _link_models(plan: StudyPlan, finished: Sequence[Run], directory: RunDirectory) -> None:
    """Link `models/<run>` to each tuned model."""
    for run in finished:
        if "tune" in plan.artifacts[run.name]:
            folder = directory.path / "models"
            folder.mkdir(exist_ok=True)
            link_to(folder / run.name, Path("..") / plan.artifact(run, "tune").folder.name / "model")


def _tell_memory(study: Study, assets: Assets, watch: Watch, jobs: int) -> None:
    """Show the memory that the first cell takes at most, and a warning for each step of any cell that does not fit."""
    shown: list[str] = []
    for run in {run.cell.name: run for run in study.runs}.values():
        lines = memory_lines(steps(run.experiment), run.experiment, assets, jobs)
        shown += lines[1:] if shown else lines
    show_memory(watch, list(dict.fromkeys(shown)))


def _report(
    plan: StudyPlan, finished: Sequence[Run], failures: Mapping[str, str], directory: RunDirectory, assets: Assets
) -> list[CellRow]:
    """The table's rows; nothing is written where no run is finished."""
    if not finished:
        return []
    study, first = plan.study, finished[0].experiment
    bootstrap, confidence = first.evaluate.bootstrap, first.evaluate.confidence
    cells = collect(plan, finished, assets)
    rows, comparisons = summarise_cells(cells, resamples=bootstrap, confidence=confidence, seed=first.seed)
    baseline = name_of(study, study.baseline, study.measured[0])
    facts = StudyFacts(study.name, study.source, baseline, first.reward.entry.unit, confidence, bootstrap, failures)
    with report_folder(directory.path, study.runs[0].experiment, {}, {"study": study.source}) as folder:
        write_study_report(folder, facts, rows, comparisons)
    return rows
