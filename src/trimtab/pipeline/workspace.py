"""What a process keeps between steps: assets, loaded models and rewards, so that nothing is loaded twice.

A training needs all the memory, so it first empties the workspace, and loads its model from files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.models.roles import Role, Roles, Weights
from trimtab.pipeline.step import Step
from trimtab.rewards.judge import load_judge
from trimtab.rewards.load import load_reward
from trimtab.rewards.reward import Reward
from trimtab.search.decoders import Observe
from trimtab.store.artifacts import Artifact
from trimtab.store.progress import Advance


class Workspace:
    """Models and rewards of one process, each loaded when it is first needed."""

    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self._weights = Weights(assets)
        self._roles: Roles | None = None
        self._rewards: dict[tuple[RewardConfig, Path | None], Reward] = {}
        self._judges: dict[Path, Reward] = {}

    def roles(self, models: Mapping[Role, ModelConfig]) -> Roles:
        """The models of these roles, loaded or reused. Models loaded before that have no role now are freed."""
        if self._roles is None:
            self._roles = Roles(models, self.assets, self._weights)
        else:
            self._roles.play(models)
        return self._roles

    def reward(self, config: RewardConfig, folder: Path) -> Reward:
        """The gold reward; `folder` holds the classifier where the configuration asks for training."""
        key = config, None if config.training is None else folder
        if key not in self._rewards:
            self._rewards.clear()  # only one is kept: the cells of a study may have different rewards
            self._rewards[key] = load_reward(config, self.assets, key[1])
        return self._rewards[key]

    def judge(self, folder: Path) -> Reward:
        """The second judge in a folder."""
        if folder not in self._judges:
            self._judges[folder] = load_judge(folder)
        return self._judges[folder]

    def empty(self) -> None:
        """Free all language models, so that a training has their memory."""
        if self._roles is not None:
            self._roles.drop()


@dataclass(frozen=True)
class Job:
    """What the function that makes a step receives.

    Args:
        inputs: the artifacts that the step reads, by the names of the steps that made them.
        folder: the folder to fill, which becomes the artifact.
        work: a folder for checkpoints and blocks, which stays when the process is killed.
        advance: reports progress; called with the number of units done and of all units.
        run: the run directory, where trackers and traces are written.
        jobs: number of processes that decode at the same time and share the machine.
        observe: called with each step of each search, where searches are traced.
        main: False in a process that only helps to tune and writes no artifact.
    """

    step: Step
    inputs: Mapping[str, Artifact]
    workspace: Workspace
    folder: Path
    work: Path
    advance: Advance
    run: Path
    jobs: int = 1
    observe: Observe | None = None
    main: bool = True

    def input(self, stage: str) -> Artifact:
        """The artifact of the first step of this stage among the step's needs."""
        need = self.step.need(stage)
        assert need is not None, (self.step.name, stage)
        return self.inputs[need.name]

    def roles(
        self, small: ModelConfig | None, large: ModelConfig | None = None, tuned: ModelConfig | None = None
    ) -> Roles:
        """The models of this step by role, loaded.

        Args:
            small: the small model, in the roles `untuned` and `tuned`. Where the step needs `sft` or `tune`, the
                weights come from that step's artifact.
            large: the large model.
            tuned: the tuned model where it exists already and no step tunes one.
        """
        models: dict[Role, ModelConfig] = {}
        if small is not None:
            models["untuned"] = self._trained("sft", small) or small
            tuned = self._trained("tune", small) or tuned
            models |= {} if tuned is None else {"tuned": tuned}
        models |= {} if large is None else {"large": large}
        return self.workspace.roles(models)

    def _trained(self, stage: str, small: ModelConfig) -> ModelConfig | None:
        """The small model with the weights of a training stage; None where the step does not need that stage."""
        need = self.step.need(stage)
        if need is None:
            return None
        folder = self.inputs[need.name].folder / "model"
        return small.model_copy(update={"name": str(folder), "adapter": None, "allow_pickle": False})

    def reward(self, config: RewardConfig) -> Reward:
        """The gold reward, whose classifier is in the artifact of the step `reward`."""
        return self.workspace.reward(config, self.input("reward").folder)
