"""A sequence classifier as reward: any checkpoint with a positive and a negative label."""

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.models.load import load_classifier
from trimtab.rewards.labels import check_default_label, positive_index
from trimtab.rewards.model_reward import ModelReward, non_embedding_parameters
from trimtab.rewards.reward import judged_texts
from trimtab.rewards.sequence_logits import positions_of, reading

PROBE = "This film is good."


def classifier_reward(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    definition: str,
    positive_label: int | str,
    max_length: int,
    batch_size: int,
) -> ModelReward:
    """The reward of a sequence classifier, computed in float32 on the device that the model is on.

    Args:
        definition: `margin`, log p(positive) - log p(negative), which for two labels is the difference of the two
            logits (nats); or `positive_logit`, the positive label's logit as it is.
        positive_label: its index, or its name in the model's `id2label`.
        max_length: a text of more tokens loses its beginning.
        batch_size: number of texts that are read together.

    Raises:
        ModelError: the head has no such label, a single label, or (for `margin`) not exactly two; or the model reads
            fewer than `max_length` tokens.
    """
    positive = positive_index(model.config, positive_label, definition)
    limit, logits = reading(model.float().eval(), tokenizer, max_length)

    def head(rows: list[list[int]]) -> torch.Tensor:
        values = logits(rows)
        return values[:, positive] - values[:, 1 - positive] if definition == "margin" else values[:, positive]

    return ModelReward(
        head,
        lambda prompts, responses: tokenizer(judged_texts(prompts, responses))["input_ids"],
        limit,
        parameters=non_embedding_parameters(model),
        batch_size=batch_size,
    )


def load_classifier_reward(config: RewardConfig, assets: Assets, folder: Path | None) -> ModelReward:
    """The reward of `config`: the trained classifier in `folder`, or the ready one that `config.model` names.

    Raises:
        ConfigurationError: `config` asks for training and no trained folder is given.
        AssetError, ModelError: the classifier cannot be found or cannot play the role, or gives no numbers at all.
    """
    if config.training is not None and folder is None:
        raise ConfigurationError(
            f"reward.training asks to fine-tune {config.model}, but no trained classifier was given: train it first"
        )
    name = config.model if folder is None else str(folder)
    model, tokenizer = load_classifier(name, assets, allow_pickle=config.allow_pickle)
    if folder is None and "positive_label" not in config.model_fields_set:
        check_default_label(model.config, name)
    reward = classifier_reward(
        model,
        tokenizer,
        definition=config.definition,
        positive_label=config.positive_label,
        max_length=readable_length(config, model),
        batch_size=config.batch_size,
    )
    (probe,) = reward.score([PROBE], [""])
    if not math.isfinite(probe):
        raise ModelError(f"the reward model {name} gives {probe} for {PROBE!r}: its weights are broken, name another")
    return reward


def readable_length(config: RewardConfig, model: PreTrainedModel) -> int:
    """The tokens of a text that are read: `config.max_length`, or the model's positions where these are fewer.

    A `max_length` that the configuration gives itself is kept, and refused later with its number where it is too much.
    """
    is_set = "max_length" in config.model_fields_set
    return config.max_length if is_set else min(config.max_length, positions_of(model))
