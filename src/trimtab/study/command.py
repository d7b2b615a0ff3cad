"""The command `trimtab study`: reads the file, shows the plan or runs the study, and prints the results."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from trimtab.assets.resolve import Assets
from trimtab.errors import StudyError
from trimtab.models.hardware import visible_devices
from trimtab.pipeline.memory import check_jobs, spreads
from trimtab.report.study_tables import print_cells
from trimtab.store.artifacts import RunDirectory
from trimtab.store.progress import watching
from trimtab.store.remote import local_run
from trimtab.study.options import StudyOptions
from trimtab.study.plan import plan_study
from trimtab.study.run import Outcome, run_study
from trimtab.study.study_file import Study, load_study
from trimtab.study.view import StudyView, print_plan


def run_command(
    path: Path,
    find: Callable[[str], Path],
    overrides: Sequence[str],
    runs: str | Path,
    path_map: Path | None,
    quiet: bool,
    options: StudyOptions,
) -> None:
    """Plan the study and, unless it is a dry run, run it.

    Raises:
        ConfigurationError: the file, or an option, cannot be run.
        StudyError: a run failed; the others are finished and reported.
    """
    study = load_study(path, overrides, find)
    options.check()
    assets = Assets(path_map=path_map)
    if options.dry_run:
        _print_plan(study, runs, assets)
        return
    view, who = StudyView(), options if options.ray else replace(options, jobs=_jobs(study, options.jobs))
    with watching(quiet=quiet, table=view) as watch:
        outcome = run_study(study, runs, assets, watch, view, who)
    _print_outcome(outcome)
    if outcome.failures:
        run, reason = next(iter(outcome.failures.items()))
        raise StudyError(
            f"{len(outcome.failures)} of {len(study.runs)} runs failed, such as {run} ({reason}): mend what they name, "
            "and the same command makes what is missing"
        )


def _jobs(study: Study, wanted: int | None) -> int:
    """The number of processes: as wanted; else one for each visible device, or one where a model spreads over all.

    Raises:
        ConfigurationError: several are wanted, and a model spreads over all devices.
    """
    if wanted is not None:
        for run in study.runs:
            check_jobs(run.experiment, wanted)
        return wanted
    if any(spreads(run.experiment) for run in study.runs):
        return 1
    return max(len(visible_devices()), 1)


def _print_plan(study: Study, runs: str | Path, assets: Assets) -> None:
    console = Console()
    plan = plan_study(study, RunDirectory(local_run(f"{runs}/{study.name}"), create=False), assets)
    console.print(f"{study.name}: {len(study.cells)} cells, {len(study.runs)} runs", highlight=False, markup=False)
    print_plan(plan, console)


def _print_outcome(outcome: Outcome) -> None:
    console = Console()
    if outcome.rows:
        print_cells(outcome.rows, console)
        page = outcome.report / "report.html"
        console.print(f"\n{page}", markup=False, highlight=False, soft_wrap=True)
    for run, reason in outcome.failures.items():
        console.print(f"{run} failed: {reason}", markup=False, highlight=False, soft_wrap=True)
