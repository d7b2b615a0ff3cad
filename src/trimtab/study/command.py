"""The command `trimtab study`: reads the file, plans or runs the study, prints what came of it.

Imports the heavy libraries, so `cli` imports it where the command runs.

    >>> smoke, how = Path("experiments/slic-smoke.yaml"), StudyOptions(dry_run=True)    # doctest: +SKIP
    >>> run_command(smoke, Path, (), Path("runs"), None, True, how)                     # doctest: +SKIP
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from trimtab.assets.resolve import Assets
from trimtab.errors import ConfigurationError, StudyError
from trimtab.models.hardware import visible_devices
from trimtab.pipeline.memory import check_jobs, spreads
from trimtab.report.study_tables import terminal_table
from trimtab.store.artifacts import RunDirectory
from trimtab.store.progress import watching
from trimtab.study.options import StudyOptions
from trimtab.study.plan import plan_study
from trimtab.study.run import Outcome, run_study
from trimtab.study.study_file import Study, load_study
from trimtab.study.view import StudyView, cell_table, plan_table


def run_command(
    path: Path,
    find: Callable[[str], Path],
    overrides: Sequence[str],
    runs: Path,
    path_map: Path | None,
    quiet: bool,
    how: StudyOptions,
) -> None:
    """Plan the study and, unless it is a dry run, run it.

    Raises:
        ConfigurationError: the file, or an option, cannot be run.
        StudyError: a cell failed; the others are finished and reported.
    """
    study = load_study(path, overrides, find)
    for name, number in (("--jobs", how.jobs), ("--threads", how.threads)):
        if number is not None and number < 1:
            raise ConfigurationError(f"{name} is {number}: give at least 1")
    assets = Assets(path_map=path_map)
    if how.dry_run:
        _print_plan(study, runs, assets)
        return
    view, jobs = StudyView(), _jobs(study, how.jobs)
    with watching(quiet=quiet, table=view) as watch:
        outcome = run_study(study, runs, assets, watch, view, jobs, how.threads)
    _print_outcome(study, outcome)
    if outcome.failures:
        raise StudyError(_failure(study, outcome))


def _jobs(study: Study, wanted: int | None) -> int:
    """As many processes as wanted; else one for each visible device, or a single one where a model takes them all.

    Raises:
        ConfigurationError: several are wanted, and a model takes all devices.
    """
    if wanted is not None:
        for run in study.runs:
            check_jobs(run.experiment, wanted)
        return wanted
    if any(spreads(run.experiment) for run in study.runs):
        return 1
    return max(len(visible_devices()), 1)


def _print_plan(study: Study, runs: Path, assets: Assets) -> None:
    console = Console()
    there = (runs / study.name).exists()
    plan = plan_study(study, RunDirectory(runs / study.name), assets)
    if not there:
        (runs / study.name).rmdir()  # a dry run leaves nothing
    console.print(f"{study.name}: {len(study.cells)} cells, {len(study.runs)} runs", highlight=False, markup=False)
    console.print(plan_table(plan))
    console.print(cell_table(plan))


def _print_outcome(study: Study, outcome: Outcome) -> None:
    console = Console(width=max(Console().width, 100))
    if outcome.rows:
        console.print(terminal_table(outcome.rows))
        page = outcome.report / "report.html"
        console.print(f"\n{page}", markup=False, highlight=False, soft_wrap=True)
    for run, why in outcome.failures.items():
        console.print(f"{run} failed: {why}", markup=False, highlight=False, soft_wrap=True)


def _failure(study: Study, outcome: Outcome) -> str:
    run, why = next(iter(outcome.failures.items()))
    count = len(outcome.failures)
    return (
        f"{count} of {len(study.runs)} runs failed, such as {run} ({why}): mend what they name, and the same command "
        "makes what is missing"
    )
