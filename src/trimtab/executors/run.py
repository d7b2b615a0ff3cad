"""Runs the steps of an experiment, in this process, in several on this machine, or on a cluster."""

import importlib.util
import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import ConfigurationError, RunError
from trimtab.executors.driver import Driver
from trimtab.executors.local import LocalWorkers
from trimtab.executors.memory_errors import explain_memory_errors
from trimtab.executors.options import WorkerOptions
from trimtab.executors.tasks import Manner, Task
from trimtab.executors.work import Setup, Wanted
from trimtab.executors.workers import InProcess, Workers
from trimtab.models.load import quiet_libraries
from trimtab.pipeline.checks import check_steps
from trimtab.pipeline.experiment_steps import STAGES, up_to
from trimtab.pipeline.make import StepMaker, link_results
from trimtab.pipeline.memory import check_jobs, memory_lines, spreads
from trimtab.pipeline.step import Plan, Step, with_needs
from trimtab.pipeline.workspace import Workspace
from trimtab.store.artifacts import RunDirectory
from trimtab.store.blocks import Shard
from trimtab.store.distributed import launched
from trimtab.store.lock import run_lock
from trimtab.store.log import recording
from trimtab.store.progress import Watch
from trimtab.store.remote import runs_folder

if TYPE_CHECKING:
    from rich.table import Table

    from trimtab.evaluation.coverage import SetAside
    from trimtab.evaluation.evaluate import Row
    from trimtab.pipeline.results import Results

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run: its artifacts and, if the report was written, its results."""

    experiment: Experiment
    plan: Plan
    watch: Watch
    results: "Results | None" = None

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.plan.directory.path

    @property
    def report(self) -> "list[Row]":
        """The rows of the report's table."""
        assert self.results is not None, "the run has no report"
        return self.results.rows

    @property
    def set_aside(self) -> "list[SetAside]":
        """The prompts that are left out of the comparison, of all decoders."""
        assert self.results is not None, "the run has no report"
        return self.results.set_aside

    @property
    def table(self) -> "Table":
        """The report's table for a terminal or a notebook."""
        from trimtab.report.tables import terminal_table

        return terminal_table(self.report)


def run(
    experiment: Experiment,
    runs: str | Path,
    assets: Assets,
    watch: Watch,
    until: str = "report",
    shard: Shard | str | None = None,
    trace: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    ray: str | None = None,
) -> Run:
    """Make all steps up to the last one of the stage `until`, in the folder or at the URL `runs`/`experiment.name`.

    With `shard`, such as `2/4`, decode only that shard's blocks of the stage `until`; every earlier artifact must
    already exist. The same call without a shard, or `merge`, puts the blocks together. Processes that were launched
    together make the step `tune` together; earlier artifacts must already exist. With `trace`, searches of the test
    prompts leave traces in the folder's `traces/`; what was decoded without one is decoded again.

    With several `jobs`, as many processes share each stage's blocks and steps, each with `threads` threads (default:
    its share of this one's), or a GPU of its own. With `ray`, a cluster's address, its workers do: see `RayWorkers`.

    Raises:
        TrimtabError: an error that the user can correct; finished work is kept, and the same call resumes.
    """
    shard = Shard.parse(shard) if isinstance(shard, str) else shard
    who = WorkerOptions(jobs, threads, ray)
    _check_request(experiment, until, shard, who)
    line, directory = up_to(experiment, until), RunDirectory(runs_folder(runs) / experiment.name)
    _take_device()
    if not launched().main:
        return _help_to_tune(experiment, line, directory, assets)
    wanted, results = _wanted(line, until, shard), None
    with (
        run_lock(directory.path, shard) as previous,
        recording(directory.path, watch, previous, shard),
        explain_memory_errors(line, experiment, assets, jobs or 1),
        quiet_libraries(),
    ):
        watch.plan(step.name for step in wanted)
        with workers_for(Setup(directory.path, assets), who, spread=spreads(experiment)) as workers:
            check_steps(line, experiment, assets)
            plan = Plan(line, directory, assets)
            _check_earlier(plan, wanted, until, shard)
            if ray is None:
                show_memory(watch, memory_lines(line, experiment, assets, jobs or 1))
            workers.check(_missing(plan, wanted, experiment))
            maker = StepMaker(Workspace(assets), directory.path)
            made = partial(_made, maker, plan, wanted[-1], watch)
            for stage, tasks in _tasks(plan, wanted, experiment):
                if stage in TRAININGS:
                    workers.rest()
                manner = Manner(*_shares(workers, who, stage), shard, trace, made)
                for error in Driver(tasks, directory, workers, watch, manner).run().values():
                    raise error
        if wanted[-1].stage == "report":
            with watch("report") as advance:
                results = maker.report(wanted[-1], plan.inputs(wanted[-1]), advance)
    _leave_group()
    return Run(experiment, plan, watch, results)


def _take_device() -> None:
    """Each of several launched processes works on the CUDA device of its local rank."""
    if not launched().alone and torch.cuda.is_available():
        torch.cuda.set_device(launched().local)


def _wanted(line: list[Step], until: str, shard: Shard | None) -> list[Step]:
    """The steps that this call makes: all, or those of the last stage where others have made what comes before it."""
    if shard is not None:
        return [step for step in line if step.stage == until and step.decodes]
    if launched().alone:
        return line
    return [step for step in line if step.stage == until]


def _missing(plan: Plan, wanted: Sequence[Step], experiment: Experiment) -> Wanted:
    """The names of the steps that workers are to make, with their experiment."""
    missing = [step.name for step in wanted if step.stage != "report" and not plan.artifacts[step].whole]
    return [(experiment.model_dump_json(exclude_unset=True), missing)]


def workers_for(setup: Setup, who: WorkerOptions, *, spread: bool = False) -> Workers:
    """This process alone, processes on this machine, or workers of a cluster; with `spread`, a model is spread over
    all GPUs that a worker has.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    if who.ray is not None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigurationError("--ray needs the package ray: pip install 'trimtab[ray]', or leave --ray out")
        from trimtab.executors.ray_workers import RayWorkers  # late: it takes seconds, and may not be there

        return RayWorkers(setup, who.ray, who.jobs, who.threads, spread=spread)
    jobs = who.jobs or 1
    return InProcess(setup) if jobs == 1 else LocalWorkers(setup, jobs, who.threads or share_of_threads(jobs))


def share_of_threads(jobs: int) -> int:
    """The threads of each of `jobs` processes."""
    return max(torch.get_num_threads() // jobs, 1)


def _shares(workers: Workers, who: WorkerOptions, stage: str) -> tuple[int, int]:
    """The threads of each worker in a stage, and how many workers there are."""
    count = max(len(workers.all()), 1)
    whole = torch.get_num_threads() if stage in TRAININGS else share_of_threads(count)
    return workers.threads or who.threads or whole, count


def _tasks(plan: Plan, wanted: Sequence[Step], experiment: Experiment) -> Iterator[tuple[str, list[Task]]]:
    """The steps to carry out together, one group after the other, each with the name of its stage."""
    values = experiment.model_dump_json(exclude_unset=True)
    for stage, steps in itertools.groupby((step for step in wanted if step.stage != "report"), _group):
        yield stage, [Task(step, plan.artifacts[step], plan.inputs(step), values, step.name) for step in steps]


TRAININGS = ("reward", "sft", "tune")
"""Stages that train a model, with all threads of this process and no other work beside them."""


def _made(maker: StepMaker, plan: Plan, last: Step, watch: Watch, task: Task) -> None:
    """Link what a task has made; before a report, show the row of a decoder that was measured just now."""
    link_results(plan.directory.path, task.step, task.artifact)
    if last.stage == "report" and task.step.folder == "evaluate" and watch.stages[task.name].state == "made":
        maker.show(last, plan.inputs(last), watch, task.step.parts["decoder"])


def _group(step: Step) -> str:
    """Steps of one group can be worked on at the same time: each decoder is evaluated as soon as it has decoded.

    Nothing else begins before functions have been tried.
    """
    return "trial" if step.folder == "trial" else "guide" if step.stage == "evaluate" else step.stage


def show_memory(watch: Watch, lines: Sequence[str]) -> None:
    """Log the lines of a memory estimate, of which all but the first are warnings, and show the first to the user."""
    for index, line in enumerate(lines):
        _log.log(logging.WARNING if index else logging.INFO, "%s", line)
        if index == 0:
            watch.print(line)


def _check_request(experiment: Experiment, until: str, shard: Shard | None, who: WorkerOptions) -> None:
    """Raise ConfigurationError for arguments of `run` that do not go together."""
    who.check()
    if not launched().alone and (until != "tune" or who.ray is not None):
        raise ConfigurationError(
            f"{until} was launched as {launched().count} processes: only `trimtab tune` can be, without --ray"
        )
    if who.ray is None:
        check_jobs(experiment, who.jobs or 1)
    rows = {"synthesize": experiment.synthesize.rows, "guide": experiment.guide.rows}
    if shard is not None and rows.get(until) == "auto":
        raise ConfigurationError(
            f"{until}.rows is auto, which depends on the machine, but all shards must cut the prompts into the same "
            f"blocks: give a number, such as --set {until}.rows=256"
        )


def _check_earlier(plan: Plan, wanted: Sequence[Step], until: str, shard: Shard | None) -> None:
    """Raise RunError if a shard or a launched process lacks an earlier artifact, which it must not make itself."""
    if shard is None and launched().alone:
        return
    earlier = [step for step in with_needs(wanted) if step.stage != until]
    missing = [step for step in earlier if not plan.artifacts[step].whole]
    if not missing:
        return
    reason = f"the shards of {until}" if shard is not None else "tune is launched as several processes"
    stage = max((step.stage for step in missing), key=STAGES.index)
    raise RunError(f"{missing[0].name} has not been made: run `trimtab {stage}` before {reason}")


def _help_to_tune(experiment: Experiment, line: Sequence[Step], directory: RunDirectory, assets: Assets) -> Run:
    """Take part in the tuning as a launched process other than the main one, without any output."""
    plan = Plan(line, directory, assets)
    with explain_memory_errors(line, experiment, assets), quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the main process shows the same ones
        tune = line[-1]
        if not plan.artifacts[tune].whole:
            maker = StepMaker(Workspace(assets), directory.path)
            maker.make(tune, plan.artifacts[tune], plan.inputs(tune), lambda done, total: None, main=False)
    _leave_group()
    return Run(experiment, plan, Watch())


def _leave_group() -> None:
    """End the communication of launched processes."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
