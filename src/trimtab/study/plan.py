"""What a study is made of: every artifact of every run, once, with what it is made from and which runs share it.

Nothing is made here, and no model is loaded; names are resolved, which may download what they stand for.

    >>> plan = plan_study(study, RunDirectory(Path("runs/slic-smoke")), Assets())       # doctest: +SKIP
    >>> [task.name for task in plan.tasks.values() if len(task.runs) == len(study.runs)][:2]    # doctest: +SKIP
    ['data', 'reward']
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trimtab.assets.resolve import Assets
from trimtab.executors.chosen import Part, Task, artifacts_of
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.progress import Watch
from trimtab.study.study_file import Run, Study


@dataclass(frozen=True)
class Plan:
    """All tasks by their digests, inputs before what is made of them; `artifacts[run][stage]` is a task's digest."""

    study: Study
    tasks: Mapping[str, Task]
    artifacts: Mapping[str, Mapping[str, str]]

    def artifact(self, run: Run, stage: str) -> Artifact:
        """What a stage makes for a run."""
        return self.tasks[self.artifacts[run.name][stage]].artifact


def plan_study(study: Study, directory: RunDirectory, assets: Assets) -> Plan:
    """Find all artifacts of the study.

    Raises:
        AssetError: a name of some cell resolves to nothing that may be read.
    """
    tasks: dict[str, Task] = {}
    artifacts = {}
    for run in study.runs:
        found = artifacts_of(Part(run.experiment, study.decoders(run), directory, assets, Watch()))
        artifacts[run.name] = {stage: digest for digest, task in found.items() for stage in task.stages}
        for digest, task in found.items():
            tasks.setdefault(digest, task).runs.append(run.name)
    for task in tasks.values():
        task.name = _task_name(task, len(study.runs))
    return Plan(study, tasks, artifacts)


def _task_name(task: Task, runs: int) -> str:
    """What the progress calls it: the stage alone where all runs share it, else with the first run that needs it."""
    if len(task.runs) == runs and runs > 1:
        return task.stage
    others = f" and {len(task.runs) - 1} more" if len(task.runs) > 1 else ""
    return f"{task.stage}: {task.runs[0]}{others}"
