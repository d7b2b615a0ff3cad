"""The list of steps as a table: what was made, what each step needs, and what it will cost."""

from pathlib import Path

from rich.console import Console

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import TrimtabError
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.step import Plan, Step
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import finished, recorded_plan
from trimtab.store.remote import local_run
from trimtab.store.text_table import print_rows

UNREADABLE = (OSError, ValueError, KeyError, AttributeError)


def print_plan(experiment: Experiment, runs: str | Path, assets: Assets, console: Console) -> None:
    """Print the steps of an experiment in its run directory; makes and loads nothing.

    FLOPs are of missing steps, estimated from the sizes of the models; memory is that of the device that models run on.

    Raises:
        AssetError: a name resolves to nothing that may be read.
    """
    line = steps(experiment)
    plan = Plan(line[:-1], RunDirectory(local_run(f"{runs}/{experiment.name}"), create=False), assets)
    rows = []
    total = 0.0
    for step in plan.steps:
        artifact = plan.artifacts[step]
        flops = 0.0 if artifact.whole else _flops(step, assets)
        total += flops
        needs = ", ".join(need.name for need in step.needs)
        rows.append([step.name, _state(artifact), needs, _short(flops), _memory(step, assets)])
    report = plan.directory.path / "report" / "report.html"
    rows.append([line[-1].name, "made" if report.is_file() else "missing", "all of them", "", ""])
    rows.append(["in all", "", "", _short(total), ""])
    print_rows(console, ["step", "state", "needs", "FLOPs", "memory"], rows, right=("FLOPs", "memory"))


def _state(artifact: Artifact) -> str:
    if artifact.whole:
        return "made"
    blocks = recorded_plan(artifact.work)
    if blocks is None:
        return "begun" if artifact.work.is_dir() else "missing"
    done = sum(finished(artifact.work, blocks, number) for number in range(blocks.blocks))
    return f"{done} of {blocks.blocks} blocks"


def _flops(step: Step, assets: Assets) -> float:
    try:
        return 0.0 if step.flops is None else step.flops(assets)
    except (TrimtabError, *UNREADABLE):  # the files of a model say less than its size
        return 0.0


def _memory(step: Step, assets: Assets) -> str:
    try:
        return "" if step.memory is None else f"{step.memory(assets, 1).total / 1e9:.1f}\N{NO-BREAK SPACE}GB"
    except (TrimtabError, *UNREADABLE):
        return ""


def _short(flops: float) -> str:
    return f"{flops:.1e}" if flops else ""
