"""What a study is made of: every artifact of every run, once, with what it is made from and which runs share it.

Nothing is made here, and no model is loaded; names are resolved, which may download what they stand for.

    >>> plan = plan_study(study, RunDirectory(Path("runs/slic-smoke")), Assets())       # doctest: +SKIP
    >>> [task.name for task in plan.tasks.values() if len(task.runs) == len(study.runs)][:2]    # doctest: +SKIP
    ['data', 'reward']
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trimtab.assets.resolve import Assets
from trimtab.experiment import DecoderConfig, Experiment
from trimtab.line import Line, diverging
from trimtab.making import Make, Maker
from trimtab.pipeline import enough_memory
from trimtab.progress import Watch
from trimtab.runs import Artifact, RunDirectory
from trimtab.study.study_file import Run, Study


@dataclass
class Task:
    """An artifact that runs have in common: `stage` as progress calls it, digests of its inputs, names of its runs."""

    stage: str
    artifact: Artifact
    inputs: tuple[str, ...]
    runs: list[str] = field(default_factory=list)
    name: str = ""


@dataclass(frozen=True)
class Plan:
    """All tasks by their digests, inputs before what is made of them; `artifacts[run][stage]` is a task's digest."""

    study: Study
    tasks: Mapping[str, Task]
    artifacts: Mapping[str, Mapping[str, str]]

    def artifact(self, run: Run, stage: str) -> Artifact:
        """What a stage makes for a run."""
        return self.tasks[self.artifacts[run.name][stage]].artifact


class Chooser(Maker):
    """Makes the artifact of one digest at most, and notes in `found` all that it is asked for, in order.

    So whoever asks for the last artifacts of a line is told what they are made of, and two processes that are given
    different digests never write to one artifact.
    """

    def __init__(self, *of_the_line: Any, found: dict[str, Task], chosen: str | None = None) -> None:
        super().__init__(*of_the_line)
        self._found = found
        self._chosen = chosen

    def stage(
        self, stage: str, parts: Mapping[str, Any], inputs: Sequence[Artifact], make: Make, label: str | None = None
    ) -> Artifact:
        artifact = self.artifact(stage, parts, inputs)
        self._found.setdefault(artifact.digest, Task(label or stage, artifact, tuple(each.digest for each in inputs)))
        if artifact.digest == self._chosen and not artifact.whole:
            return super().stage(stage, parts, inputs, make, label)
        return artifact


def plan_study(study: Study, directory: RunDirectory, assets: Assets) -> Plan:
    """Find all artifacts of the study.

    Raises:
        AssetError: a name of some cell resolves to nothing that may be read.
    """
    tasks: dict[str, Task] = {}
    artifacts = {}
    for run in study.runs:
        found = _artifacts_of(run.experiment, study.decoders(run), directory, assets, Watch())
        artifacts[run.name] = {task.stage: digest for digest, task in found.items()}
        for digest, task in found.items():
            tasks.setdefault(digest, task).runs.append(run.name)
    for task in tasks.values():
        task.name = _task_name(task, len(study.runs))
    return Plan(study, tasks, artifacts)


def make_artifact(
    digest: str,
    experiment: Experiment,
    decoders: Sequence[DecoderConfig],
    directory: RunDirectory,
    assets: Assets,
    watch: Watch,
) -> None:
    """Make the one artifact, of those that the decoders' scores need; its inputs must be there.

    Raises:
        TrimtabError: anything that a user can mend.
    """
    with enough_memory():
        found = _artifacts_of(experiment, decoders, directory, assets, watch, digest)
    assert found[digest].artifact.whole, digest


def _artifacts_of(
    experiment: Experiment,
    decoders: Sequence[DecoderConfig],
    directory: RunDirectory,
    assets: Assets,
    watch: Watch,
    chosen: str | None = None,
) -> dict[str, Task]:
    found: dict[str, Task] = {}
    line = Line(experiment, directory, assets, watch, maker=partial(Chooser, found=found, chosen=chosen))
    for decoder in decoders:
        line.evaluated(decoder)
    for decoder in diverging(experiment):
        if decoder in decoders:
            line.divergence(decoder)
    return found


def _task_name(task: Task, runs: int) -> str:
    """What the progress calls it: the stage alone where all runs share it, else with the first run that needs it."""
    if len(task.runs) == runs and runs > 1:
        return task.stage
    others = f" and {len(task.runs) - 1} more" if len(task.runs) > 1 else ""
    return f"{task.stage}: {task.runs[0]}{others}"
