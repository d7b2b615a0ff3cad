"""Runs a study: makes the missing tasks of its plan, whatever fails, and writes the report of what is finished."""

import contextlib
import graphlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from trimtab.assets.resolve import Assets
from trimtab.evaluation.cells import CellRow, summarise_cells
from trimtab.executors.helpers import task_for, thread_count
from trimtab.executors.in_process import InProcess
from trimtab.executors.messages import Message, Send, Task
from trimtab.executors.pool import Pool
from trimtab.executors.run import show_memory
from trimtab.models.hardware import default_device, processes_a_device
from trimtab.pipeline.checks import check_steps
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.memory import memory_lines
from trimtab.report.study_page import StudyFacts, write_study_report
from trimtab.store.artifacts import RunDirectory
from trimtab.store.files import link_to, replace_folder, write_json
from trimtab.store.lock import run_lock
from trimtab.store.log import recording
from trimtab.store.progress import Advance, Watch
from trimtab.store.remote import runs_folder
from trimtab.study.collect import collect, missing_numbers, name_of
from trimtab.study.plan import StudyPlan, plan_study
from trimtab.study.study_file import Run, Study
from trimtab.study.view import StudyView

INDEX = "study.json"
"""The file that says which artifacts belong to which run, and with how many threads they were made."""
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
    jobs: int = 1,
    threads: int | None = None,
) -> Outcome:
    """Make what is missing in the folder or at the URL `runs`/`study.name`, then write its `report/`.

    With several `jobs`, as many processes work side by side, with `threads` threads each: their share of this
    process's, if not given. A task that fails stops what would be made from it, and nothing else.

    Raises:
        TrimtabError: the study cannot be begun, or its report not be written.
    """
    directory = RunDirectory(runs_folder(runs) / study.name)
    threads = max(torch.get_num_threads() // jobs, 1) if threads is None else threads
    with run_lock(directory.path) as previous, recording(directory.path, watch, previous):
        for run in study.runs:
            check_steps(steps(run.experiment), run.experiment, assets)
        plan = plan_study(study, directory, assets)
        _tell_memory(study, assets, watch, jobs)
        view.shows(plan)
        with _executor(directory, jobs, threads) as executor:
            _write_index(plan, directory, threads)
            beside = processes_a_device(jobs, default_device().type)
            failed = carry_out(plan, executor, assets, watch, threads, beside)
        failures = _failed_runs(plan, failed)
        for run in study.runs:
            if run.name not in failures and (reason := missing_numbers(plan, run)) is not None:
                failures[run.name] = reason
        finished = [run for run in study.runs if run.name not in failures]
        _link_models(plan, finished, directory)
        with watch("report"):
            rows = _report(plan, finished, failures, directory, assets)
    return Outcome(rows, failures, directory.path / "report")


class Executor(Protocol):
    """Runs tasks: this process, one after another, or the workers of a pool."""

    def free(self) -> bool:
        """Whether another task can be submitted."""

    def submit(self, task: Task) -> None:
        """Start a task, at the latest in `wait`."""

    def wait(self, send: Send) -> None:
        """Wait for a message about a task, and pass it on."""


def carry_out(
    plan: StudyPlan, executor: Executor, assets: Assets, watch: Watch, threads: int, beside: int
) -> dict[str, str]:
    """Make all that is missing and can be made, each task once its inputs are there.

    Returns:
        The digests of the tasks that failed, each with the reason. What would be made from them is not tried.
    """
    experiments = {run.name: run.experiment for run in plan.study.runs}
    position = {digest: index for index, digest in enumerate(plan.tasks)}
    sorter = graphlib.TopologicalSorter({digest: task.inputs for digest, task in plan.tasks.items()})
    sorter.prepare()
    running: dict[str, Advance] = {}
    failed: dict[str, str] = {}

    def receive(message: Message) -> None:
        if message.kind == "warning":
            _log.warning("%s", message.text)
        elif message.kind == "progress":
            running[message.digest](message.done, message.total)
        else:
            name = plan.tasks[message.digest].name
            del running[message.digest]
            watch.end(name, message.kind)
            if message.kind == "made":
                sorter.done(message.digest)
            else:
                _log.error("%s: %s", name, message.text)
                failed[message.digest] = message.text

    watch.plan(task.name for task in plan.tasks.values())
    ready: list[str] = []
    while True:
        while new := sorter.get_ready():
            for digest in new:
                if plan.tasks[digest].artifact.whole:
                    watch.used_again(plan.tasks[digest].name)
                    sorter.done(digest)
                else:
                    ready.append(digest)
        ready.sort(key=position.__getitem__)  # run after run, so that models stay loaded
        while ready and executor.free():
            digest = ready.pop(0)
            task = plan.tasks[digest]
            running[digest] = watch.begin(task.name)
            executor.submit(task_for(digest, experiments[task.runs[0]], assets, threads, beside=beside))
        if not running:
            return failed
        executor.wait(receive)


def _failed_runs(plan: StudyPlan, failed: Mapping[str, str]) -> dict[str, str]:
    """The runs that need a failed task, each with the first such step and its reason."""
    failures: dict[str, str] = {}
    for run, artifacts in plan.artifacts.items():
        for step, digest in artifacts.items():
            if digest in failed:
                failures.setdefault(run, f"{step}: {failed[digest]}")
    return failures


@contextlib.contextmanager
def _executor(directory: RunDirectory, jobs: int, threads: int) -> Iterator[Executor]:
    if jobs > 1:
        with Pool(directory.path, range(1, jobs + 1), threads) as pool:
            yield pool
        return
    with thread_count(threads):
        yield InProcess(directory.path)


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
    with replace_folder(directory.path / "report") as folder:
        write_study_report(folder, facts, rows, comparisons)
    return rows
