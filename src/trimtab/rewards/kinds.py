"""The registry of reward kinds: what `reward.definition` may name, and what `reward.by` stands for.

>>> REWARD_KINDS["ultrarm"].paper
'UltraFeedback (Cui et al. 2023, arXiv 2310.01377)'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError
from trimtab.plugins.registry import Entry, Registry

if TYPE_CHECKING:
    from trimtab.assets.resolve import Assets
    from trimtab.rewards.reward import Reward


@dataclass(frozen=True, kw_only=True)
class RewardKind(Entry):
    """One kind of reward. `function(config, assets, folder)` gives the `Reward`; `folder` holds the classifier that was
    trained for it, and is None where `config` asks for no training.

    reads: the settings of `RewardConfig` that the kind reads. Others are refused, and take no part in hashes.
    defaults: values of settings that an experiment leaves out; of `training` only where it leaves out `model`, too.
    noun: its name in texts, which put the name of the model, the function or the address after it.
    unit: the unit of its numbers.
    formula: of a classifier's number, with `{label}` and `{other}` for the names of its labels.
    zero: the meaning of the number 0, as a clause; empty where it has none.
    """

    reads: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    noun: str = "reward model"
    unit: str = "points"
    formula: str = ""
    zero: str = ""

    def __post_init__(self) -> None:
        unknown = sorted((self.reads | set(self.defaults)) - set(RewardConfig.model_fields))
        if unknown:
            settings = ", ".join(RewardConfig.model_fields)
            raise ConfigurationError(
                f"the reward kind {self.name} reads {', '.join(unknown)}, no setting of a reward: settings are "
                f"{settings}"
            )


# The configuration imports this module, so these functions import heavy modules only when they are called.


def _classifier(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    from trimtab.rewards.classifier import load_classifier_reward

    return load_classifier_reward(config, assets, folder)


def _scalar(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    from trimtab.rewards.scalar import load_scalar_reward

    return load_scalar_reward(config, assets)


def _ultrarm(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    from trimtab.rewards.conversations import ultrarm_text
    from trimtab.rewards.scalar import load_published_reward

    return load_published_reward(config, assets, "regression_head.weight", "model.", ultrarm_text)


def _starling(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    from trimtab.rewards.conversations import starling_text
    from trimtab.rewards.scalar import load_published_reward

    return load_published_reward(config, assets, "v_head.weight", "transformer.", starling_text)


def _function(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    from trimtab.rewards.function import FunctionReward

    assert config.by is not None
    return FunctionReward(config.by)


def _service(config: RewardConfig, assets: Assets, folder: Path | None) -> Reward:
    from trimtab.models.http_client import Endpoint
    from trimtab.rewards.http_reward import EndpointReward

    assert config.by is not None
    service = Endpoint(config.by, timeout=config.timeout, attempts=config.attempts, key_variable=config.key_variable)
    return EndpointReward(service, config.batch_size)


REWARD_KINDS: Registry[RewardKind] = Registry("reward kind", arguments=("config", "assets", "folder"))

_MODEL = frozenset({"model", "max_length", "batch_size", "allow_pickle"})
_LABEL = _MODEL | {"training", "positive_label"}
_HEAD = _MODEL | {"tokenizer", "dtype"}
_LONG = {"max_length": 2048, "batch_size": 8}

for entry in (
    RewardKind(
        name="margin",
        function=_classifier,
        words="how much likelier a classifier of two labels takes one to be than the other",
        paper="Weak-to-Strong Search (Zhou et al. 2024, arXiv 2405.19262)",
        limits="Needs a classifier of exactly two labels.",
        reads=_LABEL,
        defaults={"training": {}},
        noun="classifier",
        unit="nats",
        formula="log p({label}) − log p({other})",
        zero="and at 0 both labels are equally likely",
    ),
    RewardKind(
        name="positive_logit",
        function=_classifier,
        words="a classifier's logit of one label",
        limits="Has no zero of its own: logits of one text are known up to a constant that all labels share.",
        reads=_LABEL,
        defaults={"training": {}},
        noun="classifier",
        unit="logits",
        formula="the logit of {label}",
    ),
    RewardKind(
        name="scalar",
        function=_scalar,
        words="a reward model with one number as its head, which reads conversations",
        paper="InstructGPT (Ouyang et al. 2022, arXiv 2203.02155)",
        limits="Only differences between responses to one prompt have a meaning.",
        reads=_HEAD | {"template"},
        defaults=_LONG,
    ),
    RewardKind(
        name="ultrarm",
        function=_ultrarm,
        words="openbmb/UltraRM-13b by its published prompt",
        paper="UltraFeedback (Cui et al. 2023, arXiv 2310.01377)",
        limits="Reads no tool calls; tested with small random weights of the same layout alone.",
        reads=_HEAD,
        defaults={**_LONG, "model": "openbmb/UltraRM-13b"},
    ),
    RewardKind(
        name="starling",
        function=_starling,
        words="Nexusflow/Starling-RM-34B by its published prompt",
        paper="Principled RLHF from Pairwise or K-wise Comparisons (Zhu et al. 2023, arXiv 2301.11270)",
        limits="Reads no tool calls; tested with small random weights of the same layout alone.",
        reads=_HEAD,
        defaults={**_LONG, "model": "Nexusflow/Starling-RM-34B", "tokenizer": "01-ai/Yi-34B-Chat"},
    ),
    RewardKind(
        name="function",
        function=_function,
        words="a Python function of texts, or of prompts and responses",
        limits="Its cost is not counted.",
        reads=frozenset({"by"}),
        noun="function",
    ),
    RewardKind(
        name="service",
        function=_service,
        words="a service that is sent prompts and responses over HTTP",
        limits="Its cost is not counted, and a change of what it serves is not seen.",
        reads=frozenset({"by", "batch_size", "timeout", "attempts", "key_variable"}),
        noun="service",
    ),
):
    REWARD_KINDS.add(entry)
