"""The gold reward that a configuration names, ready to score.

>>> load_reward(RewardConfig(by="trimtab.rewards.concise:concise"), Assets(), None).score(["Hi"], [""])
[-5.0]
"""

from pathlib import Path

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.rewards.reward import Reward


def load_reward(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    """The reward of `config`; `folder` holds the classifier that was trained for it, where it asks for training.

    Raises:
        ConfigurationError: a function does not exist, or training is asked for and nothing was trained.
        AssetError, ModelError: the model cannot be found or cannot play the role.
    """
    reward: Reward = config.entry.function(config, assets, folder)
    return reward
