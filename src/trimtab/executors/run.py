"""Runs the steps of an experiment, in this process or in several on this machine.

>>> run(load_experiment(Path("experiments/quickstart.yaml")), Path("runs"), Assets(), Watch())  # doctest: +SKIP
"""

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
from trimtab.executors.helpers import helping
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
from trimtab.store.lock import hold
from trimtab.store.log import keeping
from trimtab.store.progress import Watch

if TYPE_CHECKING:
    from rich.table import Table

    from trimtab.evaluation.coverage import SetAside
    from trimtab.evaluation.evaluate import Row
    from trimtab.pipeline.results import Results

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run: where its artifacts lie and, once the report was made, what it shows."""

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
        assert self.results is not None, "the run ended before its report"
        return self.results.rows

    @property
    def set_aside(self) -> "list[SetAside]":
        """The prompts that do not count, of all decoders."""
        assert self.results is not None, "the run ended before its report"
        return self.results.set_aside

    @property
    def table(self) -> "Table":
        """The report's table as a terminal or a notebook shows it."""
        from trimtab.report.tables import terminal_table

        return terminal_table(self.report)


def run(
    experiment: Experiment,
    runs: Path,
    assets: Assets,
    watch: Watch,
    until: str = "report",
    shard: Shard | str | None = None,
    trace: bool = False,
    jobs: int = 1,
) -> Run:
    """Make all steps up to the last one of the stage `until`, in the folder `runs`/`experiment.name`.

    With `shard`, such as `2/4`, decode only that shard's blocks of the stage `until`; every earlier artifact must
    already exist. The same call without a shard, or `merge`, puts the blocks together. Processes that were launched
    together make the step `tune` together; earlier artifacts must already exist. With `trace`, searches of the test
    prompts leave traces in the folder's `traces/`; what was decoded without one is decoded again.

    With several `jobs`, as many processes decode side by side, each with its share of this one's threads, or with a GPU
    of its own where several are visible; traced searches are decoded by one process.

    Raises:
        TrimtabError: anything that a user can mend; what was made before stays, and the same call goes on from there.
    """
    shard = Shard.parse(shard) if isinstance(shard, str) else shard
    if jobs < 1:
        raise ConfigurationError(f"jobs is {jobs}: give at least 1")
    if jobs > 1 and shard is not None:
        raise ConfigurationError(f"shard {shard} would be decoded by {jobs} jobs: give either, and more shards")
    if not launched().alone and until != "tune":
        raise ConfigurationError(f"{until} was launched as {launched().count} processes: only `trimtab tune` can be")
    check_jobs(experiment, jobs)
    line = up_to(experiment, until)
    if shard is not None:
        _check_rows(experiment, until)
    directory = RunDirectory(runs / experiment.name)
    if not launched().alone and torch.cuda.is_available():
        torch.cuda.set_device(launched().local)
    if not launched().main:
        return _help_to_tune(experiment, line, directory, assets)
    wanted = line if shard is None and launched().alone else [step for step in line if step.stage == until]
    if shard is not None:
        wanted = [step for step in wanted if step.decodes]
    results = None
    with (
        hold(directory.path, shard) as previous,
        keeping(directory.path, watch, previous, shard),
        enough_memory(line, experiment, assets, jobs),
        quiet_libraries(),
        helping(directory.path, experiment, assets, jobs) as helpers,
    ):
        watch.plan(step.name for step in wanted)
        check_steps(line, experiment, assets)
        tell_memory(watch, memory_lines(line, experiment, assets, jobs))
        plan = Plan(line, directory, assets)
        session = StepRunner(plan, Workspace(assets), watch, helpers=helpers, traced=trace)
        _check_earlier(plan, wanted, until, shard)
        for number, step in enumerate(wanted):
            if helpers is not None and not any(later.decodes for later in wanted[number:]):
                helpers.end()
            if shard is None:
                results = session.make(step)
            else:
                session.decode_shard(step, shard)
    _leave_group()
    return Run(experiment, plan, watch, results if until == "report" else None)


def tell_memory(watch: Watch, lines: Sequence[str]) -> None:
    """Show the first line; the others are warnings, which the log shows."""
    for number, line in enumerate(lines):
        _log.log(logging.WARNING if number else logging.INFO, "%s", line)
        if number == 0:
            watch.say(line)


def _check_rows(experiment: Experiment, until: str) -> None:
    """Raise ConfigurationError unless all shards cut the prompts alike."""
    rows = {"synthesize": experiment.synthesize.rows, "guide": experiment.guide.rows}
    if rows[until] == "auto":
        raise ConfigurationError(
            f"{until}.rows is auto, which each machine works out for itself, and shards must be cut alike: give a "
            f"number, such as --set {until}.rows=256"
        )


def _check_earlier(plan: Plan, wanted: Sequence[Step], until: str, shard: Shard | None) -> None:
    """Raise RunError unless all that these steps need was made, where this process may not make it."""
    if shard is None and launched().alone:
        return
    earlier = [step for step in with_needs(wanted) if step.stage != until]
    missing = next((step for step in earlier if not plan.artifacts[step].whole), None)
    if missing is None:
        return
    reason = f"the shards of {until}" if shard is not None else "tune is launched as several processes"
    raise RunError(f"{missing.name} has not been made: run `trimtab {earlier[-1].stage}` before {reason}")


def _help_to_tune(experiment: Experiment, line: Sequence[Step], directory: RunDirectory, assets: Assets) -> Run:
    """What a launched process does that is not the main one: its share of the tuning, and nothing that is shown."""
    plan = Plan(line, directory, assets)
    with enough_memory(line, experiment, assets), quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the main process gives the same ones
        StepRunner(plan, Workspace(assets), Watch()).help_to_tune(line[-1])
    _leave_group()
    return Run(experiment, plan, Watch())


def _leave_group() -> None:
    """Launched processes have no more to exchange."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def enough_memory(line: Sequence[Step], experiment: Experiment, assets: Assets, jobs: int = 1) -> Iterator[None]:
    """Turns errors about memory, on whatever device, into one that says which settings to lower to what; and those of a
    launched process that has lost another one into one that says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if lost_another(error):
            raise RunError(
                f"another of the {launched().count} launched processes has ended: the same command goes on from the "
                "last checkpoint"
            ) from None
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        settings = lowered(line, experiment, assets, jobs)
        raise RunError(f"there is not enough memory: lower {settings}, and the same command goes on") from None
