"""What outlives steps: assets, loaded models and the reward, so that nothing is loaded twice in a process.

A training is the exception: it wants all memory, so it empties the workspace and starts from the model's files.
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
    """Models and rewards of one process, each loaded when it is first wanted."""

    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self._weights = Weights(assets)
        self._roles: Roles | None = None
        self._rewards: dict[tuple[RewardConfig, Path | None], Reward] = {}
        self._judges: dict[Path, Reward] = {}

    def roles(self, models: Mapping[Role, ModelConfig]) -> Roles:
        """These models by the parts that they play. Of models loaded before, those that have no part are forgotten."""
        if self._roles is None:
            self._roles = Roles(models, self.assets, self._weights)
        else:
            self._roles.play(models)
        return self._roles

    def reward(self, config: RewardConfig, folder: Path) -> Reward:
        """The gold reward; `folder` holds the classifier where the configuration asks for training."""
        key = config, None if config.training is None else folder
        if key not in self._rewards:
            self._rewards.clear()  # one at a time: cells of a study may have one each
            self._rewards[key] = load_reward(config, self.assets, key[1])
        return self._rewards[key]

    def judge(self, folder: Path) -> Reward:
        """The second judge that lies in a folder."""
        if folder not in self._judges:
            self._judges[folder] = load_judge(folder)
        return self._judges[folder]

    def empty(self) -> None:
        """Forget all language models, so that a training has their memory."""
        if self._roles is not None:
            self._roles.drop()


@dataclass(frozen=True)
class Job:
    """One step being made: what its function is given.

    Args:
        inputs: the artifacts of the step's needs, by the names of their steps.
        folder: to be filled; it becomes the artifact.
        work: a folder that outlives a kill, for checkpoints and blocks.
        advance: takes the number of units done and of all.
        run: the run directory, where trackers and traces lie.
        jobs: number of processes that decode side by side and share the machine.
        observe: takes each step of each search, where searches are traced.
        main: False in a process that helps to tune and keeps nothing.
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
        """The artifact of the first need of this stage."""
        need = self.step.need(stage)
        assert need is not None, (self.step.name, stage)
        return self.inputs[need.name]

    def roles(
        self, small: ModelConfig | None, large: ModelConfig | None = None, tuned: ModelConfig | None = None
    ) -> Roles:
        """The models of this step: a small one trained by `sft` or `tune` lies in that step's artifact."""
        models: dict[Role, ModelConfig] = {}
        if small is not None:
            models["untuned"] = self._trained("sft", small) or small
            lying = self._trained("tune", small) or tuned
            models |= {} if lying is None else {"tuned": lying}
        models |= {} if large is None else {"large": large}
        return self.workspace.roles(models)

    def _trained(self, stage: str, small: ModelConfig) -> ModelConfig | None:
        """The small model after a training, shown prompts as before it; None where the step does not need that one."""
        need = self.step.need(stage)
        if need is None:
            return None
        folder = self.inputs[need.name].folder / "model"
        return small.model_copy(update={"name": str(folder), "adapter": None, "allow_pickle": False})

    def reward(self, config: RewardConfig) -> Reward:
        """The gold reward of the step `reward`."""
        return self.workspace.reward(config, self.input("reward").folder)
