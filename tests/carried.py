"""Steps of any plan, also ones that no experiment has, carried out in this process."""

from collections.abc import Sequence

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.executors.driver import Driver
from trimtab.executors.tasks import Manner, Task
from trimtab.executors.work import Setup
from trimtab.executors.workers import InProcess
from trimtab.pipeline.step import Plan, Step
from trimtab.store.blocks import Shard
from trimtab.store.progress import Watch


class _OfPlan(InProcess):
    """Finds steps in a plan."""

    def __init__(self, plan: Plan, assets: Assets) -> None:
        super().__init__(Setup(plan.directory.path, assets))
        by_name = {step.name: step for step in plan.steps}
        self._worker._steps = lambda experiment: (Experiment.model_validate_json(experiment), by_name)


def carry_out_steps(
    plan: Plan,
    assets: Assets,
    steps: Sequence[Step] | None = None,
    *,
    shard: str | None = None,
    watch: Watch | None = None,
    experiment: Experiment | None = None,
) -> None:
    """Make these steps of the plan, or all; what they need exists. Raises the error of the first that fails."""
    values = (experiment or Experiment(name="any")).model_dump_json(exclude_unset=True)
    tasks = [
        Task(step, plan.artifacts[step], plan.inputs(step), values, step.name)
        for step in (plan.steps if steps is None else steps)
    ]
    manner = Manner(threads=1, shard=None if shard is None else Shard.parse(shard))
    failed = Driver(tasks, plan.directory, _OfPlan(plan, assets), watch or Watch(), manner).run()
    for error in failed.values():
        raise error
