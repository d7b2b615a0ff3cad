"""A study from its plan to its report: makes what is missing, whatever fails, and writes down what came of it.

Knows nothing of processes (`hands`, `pool`) or of how a cell is measured (`evaluation.cells`).

    >>> outcome = run_study(study, Path("runs"), Assets(), watch, view)                 # doctest: +SKIP
    >>> outcome.failures                                                                # doctest: +SKIP
    {'random-hinge-1-seed-2': 'tune: training diverged: the validation loss is nan ...'}
"""

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
from trimtab.study.collect import collect, name_of, without_numbers
from trimtab.study.plan import Plan, plan_study
from trimtab.study.study_file import Run, Study
from trimtab.study.view import StudyView

INDEX = "study.json"
"""The file that says which artifact is which cell's, and with how many threads they were made."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of a study: rows of the cells that have a finished run, and of each failed run why."""

    rows: Sequence[CellRow]
    failures: Mapping[str, str]
    report: Path


def run_study(
    study: Study,
    runs: Path,
    assets: Assets,
    watch: Watch,
    view: StudyView,
    jobs: int = 1,
    threads: int | None = None,
) -> Outcome:
    """Make what is missing in the folder `runs`/`study.name`, then write its `report/`.

    With several `jobs`, as many processes work side by side, with `threads` threads each: their share of this
    process's, if not given. A task that fails takes with it what would be made from it, and nothing else.

    Raises:
        TrimtabError: the study cannot be begun, or its report not be written.
    """
    directory = RunDirectory(runs / study.name)
    threads = max(torch.get_num_threads() // jobs, 1) if threads is None else threads
    with run_lock(directory.path) as previous, recording(directory.path, watch, previous):
        for experiment in {json.dumps(run.values, sort_keys=True): run.experiment for run in study.runs}.values():
            check_steps(steps(experiment), experiment, assets)
        plan = plan_study(study, directory, assets)
        _tell_memory(study, assets, watch, jobs)
        view.shows(plan)
        with _executor(directory, jobs, threads) as executor:
            _keep_index(plan, directory, threads)
            failed = carry_out(plan, executor, assets, watch, threads, processes_a_device(jobs, default_device().type))
        failures = _reasons(plan, failed)
        made = [run for run in study.runs if run.name not in failures]
        failures |= {run.name: why for run in made if (why := without_numbers(plan, run)) is not None}
        finished = [run for run in made if run.name not in failures]
        _name_models(plan, finished, directory)
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
    plan: Plan, executor: Executor, assets: Assets, watch: Watch, threads: int, beside: int
) -> dict[str, str]:
    """Make all that is missing and can be made, each task once its inputs are there.

    Returns:
        The digests of tasks that failed, each with the reason. What would be made from them is not tried.
    """
    runs = {run.name: run for run in plan.study.runs}
    order = {digest: number for number, digest in enumerate(plan.tasks)}
    sorter = graphlib.TopologicalSorter({digest: task.inputs for digest, task in plan.tasks.items()})
    sorter.prepare()
    advances: dict[str, Advance] = {}
    failed: dict[str, str] = {}
    running: set[str] = set()

    def receive(message: Message) -> None:
        if message.kind == "warning":
            _log.warning("%s", message.text)
        elif message.kind == "progress":
            advances[message.digest](message.done, message.total)
        else:
            name = plan.tasks[message.digest].name
            running.remove(message.digest)
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
            whole = [digest for digest in new if plan.tasks[digest].artifact.whole]
            for digest in whole:
                watch.used_again(plan.tasks[digest].name)
            ready += [digest for digest in new if digest not in whole]
            sorter.done(*whole)
        ready.sort(key=order.__getitem__)  # run after run, so that models stay loaded
        while ready and executor.free():
            digest = ready.pop(0)
            task = plan.tasks[digest]
            advances[digest] = watch.begin(task.name)
            running.add(digest)
            executor.submit(task_for(digest, runs[task.runs[0]].experiment, assets, threads, beside=beside))
        if not running:
            return failed
        executor.wait(receive)


def _reasons(plan: Plan, failed: Mapping[str, str]) -> dict[str, str]:
    """For each run that lacks something because a task failed: which step, and why."""
    reasons: dict[str, str] = {}
    for run, artifacts in plan.artifacts.items():
        for step, digest in artifacts.items():
            if digest in failed:
                reasons.setdefault(run, f"{step}: {failed[digest]}")
    return reasons


@contextlib.contextmanager
def _executor(directory: RunDirectory, jobs: int, threads: int) -> Iterator[Executor]:
    if jobs > 1:
        with Pool(directory.path, range(1, jobs + 1), threads) as pool:
            yield pool
        return
    with thread_count(threads):
        yield InProcess(directory.path)


def _keep_index(plan: Plan, directory: RunDirectory, threads: int) -> None:
    """Write which artifacts are which run's, and warn where others were made with another number of threads."""
    file = directory.path / INDEX
    with contextlib.suppress(FileNotFoundError, ValueError):
        before = json.loads(file.read_text(encoding="utf-8"))["threads"]
        if before != threads and any(task.artifact.whole for task in plan.tasks.values()):
            _log.warning(
                "this study was begun with %d threads a process and goes on with %d: what is made from here on can "
                "differ in its last digits; --threads %d keeps to it", before, threads, before,
            )  # fmt: skip
    runs = {
        run.name: {
            "cell": run.cell.name,
            "fields": {**run.cell.fields, **run.repeat.fields},
            "artifacts": {stage: plan.tasks[d].artifact.folder.name for stage, d in plan.artifacts[run.name].items()},
        }
        for run in plan.study.runs
    }
    write_json(file, {"threads": threads, "runs": runs})
    for task in plan.tasks.values():
        if task.artifact.whole:
            directory.tidy(task.artifact)


def _name_models(plan: Plan, finished: Sequence[Run], directory: RunDirectory) -> None:
    """A name that stays for each tuned model: `models/<run>`."""
    for run in finished:
        if "tune" in plan.artifacts[run.name]:
            folder = directory.path / "models"
            folder.mkdir(exist_ok=True)
            link_to(folder / run.name, Path("..") / plan.artifact(run, "tune").folder.name / "model")


def _tell_memory(study: Study, assets: Assets, watch: Watch, jobs: int) -> None:
    """What the first run takes at most, and a warning for each step of any run that does not fit."""
    lines: list[str] = []
    for run in {run.cell.name: run for run in study.runs}.values():
        first, *warnings = memory_lines(steps(run.experiment), run.experiment, assets, jobs) or [""]
        lines += [first, *warnings] if not lines else warnings
    show_memory(watch, list(dict.fromkeys(filter(None, lines))))


def _report(
    plan: Plan, finished: Sequence[Run], failures: Mapping[str, str], directory: RunDirectory, assets: Assets
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
