"""What a run has made, by what tests ask of it."""

from functools import cached_property
from pathlib import Path

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.guide import DecoderConfig
from trimtab.executors.run import Run
from trimtab.executors.run import run as run_steps
from trimtab.models.roles import Roles
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.step import Plan
from trimtab.rewards.load import load_reward
from trimtab.rewards.reward import Reward
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import Shard
from trimtab.store.progress import Watch


class Finished:
    """The artifacts of a run by their steps, whole or not."""

    def __init__(self, plan: Plan, experiment: Experiment, assets: Assets, run: Run | None = None) -> None:
        self.plan, self.experiment, self.assets, self.run = plan, experiment, assets, run
        self.directory = plan.directory

    @classmethod
    def planned(cls, experiment: Experiment, folder: Path, assets: Assets) -> "Finished":
        """The run's artifacts, of which none is made here."""
        return cls(Plan(steps(experiment)[:-1], RunDirectory(folder), assets), experiment, assets)

    def artifact(self, name: str) -> Artifact:
        return next(artifact for step, artifact in self.plan.artifacts.items() if step.name == name)

    def guided(self, decoder: DecoderConfig) -> Artifact:
        return self.artifact(f"guide {decoder.name}")

    def evaluated(self, decoder: DecoderConfig) -> Artifact:
        return self.artifact(f"evaluate {decoder.name}")

    def samples(self, split: str) -> Artifact:
        return self.artifact(f"synthesize {split}")

    @property
    def data(self) -> Artifact:
        return self.artifact("data")

    @property
    def reward(self) -> Artifact:
        return self.artifact("reward")

    @property
    def pairs(self) -> Artifact:
        return self.artifact("pairs")

    @property
    def tuned(self) -> Artifact:
        return self.artifact("tune")

    @property
    def sft(self) -> Artifact:
        return self.artifact("sft")

    @property
    def watch(self) -> Watch:
        assert self.run is not None
        return self.run.watch

    @cached_property
    def roles(self) -> Roles:
        small, folders = self.experiment.small, {step.name: made.folder for step, made in self.plan.artifacts.items()}

        def trained(step: str) -> object:
            return small.model_copy(update={"name": str(folders[step] / "model"), "adapter": None})

        models = {"untuned": trained("sft") if "sft" in folders else small}
        models |= {"tuned": trained("tune")} if "tune" in folders else {}
        models |= {} if self.experiment.large is None else {"large": self.experiment.large}
        return Roles(models, self.assets)

    @cached_property
    def gold(self) -> Reward:
        config = self.experiment.reward
        return load_reward(config, self.assets, None if config.training is None else self.reward.folder)


def run(
    experiment: Experiment,
    runs: Path,
    assets: Assets,
    watch: Watch,
    until: str = "report",
    shard: Shard | None = None,
    trace: bool = False,
    jobs: int = 1,
) -> Finished:
    """`trimtab.run`, and what it has made."""
    made = run_steps(experiment, runs, assets, watch, until, shard, trace, jobs)
    return Finished(made.plan, experiment, assets, made)
