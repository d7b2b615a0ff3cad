"""The gold reward that a configuration names, ready to score.

>>> load_reward("trimtab.rewards.concise:concise").score(["Hi"], [""])
[-5.0]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.errors import check_type
from trimtab.rewards.reward import Reward


def load_reward(
    reward: RewardConfig | str | Mapping[str, Any], assets: Assets | None = None, folder: str | Path | None = None
) -> Reward:
    """A reward as an experiment file names it.

    Args:
        reward: a function as `file.py:function` or `module:function`, the address of a service, or the fields of
            `reward` in an experiment file, such as `{"model": "me/my-reward", "definition": "scalar"}`.
        assets: where names are looked up (default: the usual places).
        folder: holds the classifier that was trained, where the reward asks for training.

    Raises:
        ConfigurationError: it is none of these, a function does not exist, or training is asked for and nothing was
            trained.
        AssetError, ModelError: the model cannot be found or cannot play the role.
    """
    check_type("reward", reward, RewardConfig | str | Mapping, "a function as file.py:function, or a reward's fields")
    check_type("assets", assets, Assets | None, "a trimtab.Assets")
    check_type("folder", folder, str | Path | None, "the folder of a trained classifier")
    if isinstance(reward, str):
        reward = RewardConfig(by=reward)
    config = reward if isinstance(reward, RewardConfig) else RewardConfig(**reward)
    loaded: Reward = config.entry.function(config, assets or Assets(), None if folder is None else Path(folder))
    return loaded
