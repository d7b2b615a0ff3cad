"""A study from its plan to its report: makes what is missing, whatever fails, and writes down what came of it.

Knows nothing of processes (`hands`, `pool`) or of how a cell is measured (`evaluation.cells`).

    >>> outcome = run_study(study, Path("runs"), Assets(), watch, view)                 # doctest: +SKIP
    >>> outcome.failures                                                                # doctest: +SKIP
    {'random-hinge-1-seed-2': 'tune: training diverged: the validation loss is nan ...'}
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trimtab.assets.resolve import Assets
from trimtab.evaluation.cells import CellRow, summarise_cells
from trimtab.executors.helpers import with_threads
from trimtab.executors.messages import Event
from trimtab.executors.pool import Pool, processes_a_device
from trimtab.models.load import default_device
from trimtab.pipeline.checks import check_models
from trimtab.pipeline.memory import memory_lines
from trimtab.report.reward_words import reward_unit
from trimtab.report.study_page import StudyFacts, write_study_report
from trimtab.store.artifacts import RunDirectory
from trimtab.store.files import link_to, write_json
from trimtab.store.lock import hold
from trimtab.store.log import keeping
from trimtab.store.progress import Advance, Watch
from trimtab.study.collect import collect, name_of, without_numbers
from trimtab.study.hands import Hands, Here, Others
from trimtab.study.plan import Plan, plan_study
from trimtab.study.schedule import Schedule
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
    with hold(directory.path) as previous, keeping(directory.path, watch, previous):
        for experiment in {json.dumps(run.values, sort_keys=True): run.experiment for run in study.runs}.values():
            check_models(experiment, assets, "report")
        plan = plan_study(study, directory, assets)
        _say_memory(study, assets, watch, jobs)
        view.shows(plan)
        with _hands(study, directory, assets, jobs, threads) as (hands, taken):
            _keep_index(plan, directory, taken)
            schedule = Schedule(plan)
            carry_out(plan, schedule, hands, watch)
        failures = schedule.reasons()
        made = [run for run in study.runs if schedule.whole(run.name)]
        failures |= {run.name: why for run in made if (why := without_numbers(plan, run)) is not None}
        finished = [run for run in made if run.name not in failures]
        _name_models(plan, finished, directory)
        with watch("report"):
            rows = _report(plan, finished, failures, directory, assets)
    return Outcome(rows, failures, directory.path / "report")


def carry_out(plan: Plan, schedule: Schedule, hands: Hands, watch: Watch) -> None:
    """Make all that is missing and can be made; what fails is in `schedule.failures`."""
    runs = {run.name: run for run in plan.study.runs}
    advances: dict[str, Advance] = {}

    def heard(event: Event) -> None:
        if event.kind == "said":
            _log.warning("%s", event.text)
            return
        name = plan.tasks[event.digest].name
        if event.kind == "advance":
            advances[event.digest](event.done, event.total)
        elif event.kind == "made":
            watch.end(name, "made")
            schedule.made(event.digest)
        else:
            watch.end(name, "failed")
            _log.error("%s: %s", name, event.text)
            schedule.failed(event.digest, event.text)

    watch.plan(task.name for task in plan.tasks.values())
    for task in plan.tasks.values():
        if task.artifact.whole:
            watch.used_again(task.name)
    while not schedule.ended:
        while hands.free() and (ready := schedule.next()) is not None:
            advances[ready.artifact.digest] = watch.begin(ready.name)
            hands.take(ready, runs[ready.runs[0]])
        hands.wait(heard)


@contextlib.contextmanager
def _hands(
    study: Study, directory: RunDirectory, assets: Assets, jobs: int, threads: int | None
) -> Iterator[tuple[Hands, int]]:
    """Who makes the artifacts, and the number of threads that they have."""
    taken = max(torch.get_num_threads() // jobs, 1) if threads is None else threads
    if jobs > 1:
        with Pool(directory.path, range(1, jobs + 1), taken) as pool:
            beside = processes_a_device(jobs, default_device().type)
            yield Others(study, pool, assets, taken, beside), taken
        return
    with with_threads(taken):
        yield Here(study, directory, assets), taken


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


def _say_memory(study: Study, assets: Assets, watch: Watch, jobs: int) -> None:
    """What the first run will take at most, and a warning for each stage of any that will not fit."""
    said: dict[str, bool] = {}
    for run in {run.cell.name: run for run in study.runs}.values():
        for number, text in enumerate(memory_lines(run.experiment, assets, "report", jobs)):
            said.setdefault(text, number > 0)
    for number, (text, warning) in enumerate(said.items()):
        _log.log(logging.WARNING if warning else logging.INFO, "%s", text)
        if number == 0:
            watch.say(text)


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
    facts = StudyFacts(study.name, study.source, baseline, reward_unit(first.reward), confidence, bootstrap, failures)
    partial, folder = directory.path / "report.partial", directory.path / "report"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_study_report(partial, facts, rows, comparisons)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return rows
