"""The plan of a study: the union of its runs' lists of steps, each artifact once, however many runs share it.

Nothing is made here, and no model is loaded; names are resolved, which may download what they stand for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimtab.assets.resolve import Assets
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.step import Identities, Plan, Step, with_needs
from trimtab.pipeline.traces import is_searched
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.study.study_file import Run, Study


@dataclass
class Task:
    """An artifact to make. `runs` names the runs that need it, `step` is the step of the first of them.

    `inputs` are the digests of what it reads, by the names of the steps; progress shows `name`.
    """

    step: Step
    artifact: Artifact
    inputs: Mapping[str, str]
    runs: list[str] = field(default_factory=list)
    name: str = ""


@dataclass(frozen=True)
class StudyPlan:
    """All tasks by their digests, each after its inputs; `artifacts[run][step]` is the digest of a run's step."""

    study: Study
    tasks: Mapping[str, Task]
    artifacts: Mapping[str, Mapping[str, str]]

    def artifact(self, run: Run, step: str) -> Artifact:
        """The artifact of a run's step, by the step's name."""
        return self.tasks[self.artifacts[run.name][step]].artifact


def plan_study(study: Study, directory: RunDirectory, assets: Assets) -> StudyPlan:
    """Find all artifacts of the study.

    Raises:
        AssetError: a name in some cell resolves to nothing that may be read.
    """
    tasks: dict[str, Task] = {}
    artifacts: dict[str, dict[str, str]] = {}
    identities = Identities(assets)
    for run in study.runs:
        plan = Plan(_measured_steps(study, run), directory, assets, identities)
        artifacts[run.name] = {step.name: artifact.digest for step, artifact in plan.artifacts.items()}
        for step, artifact in plan.artifacts.items():
            inputs = {name: made.digest for name, made in plan.inputs(step).items()}
            task = tasks.setdefault(artifact.digest, Task(step, artifact, inputs))
            if run.name not in task.runs:  # decoders with equal settings share their generations
                task.runs.append(run.name)
    for task in tasks.values():
        task.name = _task_name(task, len(study.runs))
    return StudyPlan(study, tasks, artifacts)


def _measured_steps(study: Study, run: Run) -> list[Step]:
    """The steps that the scores of a run's decoders need, in the experiment's order."""
    line, decoders = steps(run.experiment), study.decoders(run)
    names = {name for decoder in decoders for name in (f"evaluate {decoder.name}", f"evaluate {decoder.name} (KL)")}
    measured = with_needs(step for step in line if step.name in names)
    values = {value.function for step in measured if is_searched(step) for value in step.parts["decoder"].value}
    trials = [step for step in line if step.folder == "trial" and step.parts.get("function") in {None, *values}]
    needed = set(with_needs([*measured, *trials]))
    return [step for step in line if step in needed]


def _task_name(task: Task, runs: int) -> str:
    """The step's name alone where all runs share the task, else with the first run that needs it."""
    if len(task.runs) == runs and runs > 1:
        return task.step.name
    others = f" and {len(task.runs) - 1} more" if len(task.runs) > 1 else ""
    return f"{task.step.name}: {task.runs[0]}{others}"
