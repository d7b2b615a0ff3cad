"""The gold reward that a configuration names, ready to score.

>>> load_reward(RewardConfig(by="trimtab.rewards.concise:concise"), Assets(), None).score(["Hi"], [""])
[-5.0]
"""

from pathlib import Path

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.plugins.user_functions import source_hash
from trimtab.rewards.reward import Reward


def load_reward(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    """The reward of `config`; `folder` holds the classifier that was trained for it, where it asks for training.

    Raises:
        ConfigurationError: a function does not exist, or training is asked for and nothing was trained.
        AssetError, ModelError: the model cannot be found or cannot play the role.
    """
    reward: Reward = config.entry.function(config, assets, folder)
    return reward


def reward_identity(config: RewardConfig, assets: Assets) -> list[str]:
    """Hashes of the files and the code behind the names of `config`, and the element type of the computation.

    Raises:
        AssetError: a name resolves to nothing that may be read.
        ConfigurationError: a function does not exist.
    """
    if config.function is not None:
        return [source_hash(config.function)]
    if config.address is not None:
        return [config.address]
    reads = config.entry.reads
    parts = list(config.entry.identity().values())
    if "model" in reads:
        parts.append(assets.identity(assets.model(config.model, allow_pickle=config.allow_pickle)))
    if config.tokenizer is not None:
        parts.append(assets.identity(assets.tokenizer(config.tokenizer)))
    if "dtype" in reads and config.dtype == "auto":
        parts.append(str(pick_dtype(config.dtype, default_device())))
    return parts
