"""Runs the steps of an experiment, in this process or in several on this machine."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import ConfigurationError, RunError
from trimtab.executors.helpers import helpers_for
from trimtab.models.load import quiet_libraries
from trimtab.pipeline.checks import check_steps
from trimtab.pipeline.experiment_steps import up_to
from trimtab.pipeline.make import StepRunner
from trimtab.pipeline.memory import check_jobs, lowered, memory_lines
from trimtab.pipeline.step import Plan, Step, with_needs
from trimtab.pipeline.workspace import Workspace
from trimtab.store.artifacts import RunDirectory
from trimtab.store.blocks import Shard
from trimtab.store.distributed import launched, lost_another
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
    jobs: int = 1,
) -> Run:
    """Make all steps up to the last one of the stage `until`, in the folder or at the URL `runs`/`experiment.name`.

    With `shard`, such as `2/4`, decode only that shard's blocks of the stage `until`; every earlier artifact must
    already exist. The same call without a shard, or `merge`, puts the blocks together. Processes that were launched
    together make the step `tune` together; earlier artifacts must already exist. With `trace`, searches of the test
    prompts leave traces in the folder's `traces/`; what was decoded without one is decoded again.

    With several `jobs`, as many processes decode at the same time, each with its share of this one's threads, or with a
    GPU of its own where several are visible; traced searches are decoded by one process.

    Raises:
        TrimtabError: an error that the user can correct; finished work is kept, and the same call resumes.
    """
    shard = Shard.parse(shard) if isinstance(shard, str) else shard
    _check_request(experiment, until, shard, jobs)
    line = up_to(experiment, until)
    directory = RunDirectory(runs_folder(runs) / experiment.name)
    if not launched().alone and torch.cuda.is_available():
        torch.cuda.set_device(launched().local)
    if not launched().main:
        return _help_to_tune(experiment, line, directory, assets)
    wanted = line if shard is None and launched().alone else [step for step in line if step.stage == until]
    if shard is not None:
        wanted = [step for step in wanted if step.decodes]
    results = None
    with (
        run_lock(directory.path, shard) as previous,
        recording(directory.path, watch, previous, shard),
        explain_memory_errors(line, experiment, assets, jobs),
        quiet_libraries(),
        helpers_for(directory.path, experiment, assets, jobs) as helpers,
    ):
        watch.plan(step.name for step in wanted)
        check_steps(line, experiment, assets)
        show_memory(watch, memory_lines(line, experiment, assets, jobs))
        plan = Plan(line, directory, assets)
        runner = StepRunner(plan, Workspace(assets), watch, helpers=helpers, traced=trace)
        _check_earlier(plan, wanted, until, shard)
        for index, step in enumerate(wanted):
            if helpers is not None and not any(later.decodes for later in wanted[index:]):
                helpers.end()
            if shard is None:
                results = runner.make(step)
            else:
                runner.decode_shard(step, shard)
    _leave_group()
    return Run(experiment, plan, watch, results if until == "report" else None)


def show_memory(watch: Watch, lines: Sequence[str]) -> None:
    """Log the lines of a memory estimate, of which all but the first are warnings, and show the first to the user."""
    for index, line in enumerate(lines):
        _log.log(logging.WARNING if index else logging.INFO, "%s", line)
        if index == 0:
            watch.print(line)


def _check_request(experiment: Experiment, until: str, shard: Shard | None, jobs: int) -> None:
    """Raise ConfigurationError for arguments of `run` that do not go together."""
    if jobs < 1:
        raise ConfigurationError(f"jobs is {jobs}: give at least 1")
    if jobs > 1 and shard is not None:
        raise ConfigurationError(f"shard {shard} with {jobs} jobs is not supported: use one job and more shards")
    if not launched().alone and until != "tune":
        raise ConfigurationError(f"{until} was launched as {launched().count} processes: only `trimtab tune` can be")
    check_jobs(experiment, jobs)
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
    missing = next((step for step in earlier if not plan.artifacts[step].whole), None)
    if missing is None:
        return
    reason = f"the shards of {until}" if shard is not None else "tune is launched as several processes"
    raise RunError(f"{missing.name} has not been made: run `trimtab {earlier[-1].stage}` before {reason}")


def _help_to_tune(experiment: Experiment, line: Sequence[Step], directory: RunDirectory, assets: Assets) -> Run:
    """Take part in the tuning as a launched process other than the main one, without any output."""
    plan = Plan(line, directory, assets)
    with explain_memory_errors(line, experiment, assets), quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the main process shows the same ones
        StepRunner(plan, Workspace(assets), Watch()).help_to_tune(line[-1])
    _leave_group()
    return Run(experiment, plan, Watch())


def _leave_group() -> None:
    """End the communication of launched processes."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def explain_memory_errors(
    line: Sequence[Step], experiment: Experiment, assets: Assets, jobs: int = 1
) -> Iterator[None]:
    """Replace an error for lack of memory by one that names the settings to lower, and the error of a launched process
    whose partner has ended by one that says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if lost_another(error):
            raise RunError(
                f"another of the {launched().count} launched processes has ended: run the same command again to resume "
                "from the last checkpoint"
            ) from None
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        settings = lowered(line, experiment, assets, jobs)
        raise RunError(f"there is not enough memory: lower {settings}, then run the same command again") from None
