"""A sequence classifier as reward: any checkpoint with a positive and a negative label."""

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.models.load import load_classifier
from trimtab.rewards.model_reward import ModelReward, non_embedding_parameters
from trimtab.rewards.reward import judged_texts
from trimtab.rewards.sequence_logits import positions_of, reading

PROBE = "This film is good."
_POSITIVE, _NEGATIVE = ("positive", "pos"), ("negative", "neg")


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
    positive = positive_index(model, positive_label, definition)
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
        _check_default(model, name)
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


def _check_default(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError where the labels' names say that the default positive label, 1, is not the positive one."""
    names = [str(model.config.id2label.get(index, "")) for index in range(model.config.num_labels)]
    labels = [label.strip().lower() for label in names]
    positive = [index for index, label in enumerate(labels) if label in _POSITIVE]
    if len(labels) > 1 and ((positive and 1 not in positive) or labels[1] in _NEGATIVE):
        raise ModelError(
            f"the reward model {name} calls its labels {', '.join(names)}, and reward.positive_label is left out, "
            f'which is label 1, {names[1]}: give its name, such as "{names[positive[0] if positive else 0]}"'
        )


def positive_index(model: PreTrainedModel, label: int | str, definition: str) -> int:
    """Index of the positive label in the head's logits.

    Raises:
        ModelError: the head has no such label, or does not fit the definition.
    """
    count = model.config.num_labels
    names = [str(model.config.id2label.get(index, f"LABEL_{index}")) for index in range(count)]
    if count < 2:
        raise ModelError(f"the reward model has {count} label, a scalar head: set reward.definition to scalar")
    if definition == "margin" and count != 2:
        raise ModelError(
            f"the reward model has {count} labels and `margin` needs exactly 2: give a classifier with two labels, "
            "or set reward.definition to positive_logit"
        )
    choices = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    named = [index for index, name in enumerate(names) if name == str(label)]
    if isinstance(label, bool):
        raise ModelError(f"reward.positive_label {label} is a boolean: write a label in quotes, of {choices}")
    if isinstance(label, int) and 0 <= label < count:
        if named not in ([], [label]):
            raise ModelError(
                f"reward.positive_label {label} is the index of {names[label]!r} and the name of label {named[0]}: "
                f'write the name in quotes, as "{names[label]}" or "{label}"'
            )
        return label
    if isinstance(label, str) and len(named) > 1:
        raise ModelError(f"reward.positive_label {label!r} is the name of several labels: give an index, of {choices}")
    if isinstance(label, int) or not named:
        raise ModelError(f"reward.positive_label {label!r} is no label of the reward model: it has {choices}")
    return named[0]
