"""A sequence classifier as reward: any checkpoint with a positive and a negative label.

>>> reward = load_classifier_reward(RewardConfig(model="lvwerra/distilbert-imdb"), assets, None)  # doctest: +SKIP
>>> reward.score(["This film"], [" is a joy."])                                                   # doctest: +SKIP
[4.87]
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.models.load import load_classifier
from trimtab.records import PromptInput
from trimtab.rewards.batches import in_batches
from trimtab.rewards.reward import judged_texts
from trimtab.rewards.reward_values import checked_scores
from trimtab.rewards.sequence_logits import SequenceLogits, positions_of
from trimtab.rewards.token_rows import TokenRows

PROBE = "This film is good."
_POSITIVE, _NEGATIVE = ("positive", "pos"), ("negative", "neg")
Definition = Literal["margin", "positive_logit"]


class ClassifierReward:
    """The Reward given by a sequence classifier, computed in float32 on the device that the model is on.

    `definition` is `margin`, log p(positive) - log p(negative), which for two labels is the difference of the two
    logits (nats); or `positive_logit`, the positive label's logit as it is. `positive_label` is its index or its name
    in the model's `id2label`. A text of more than `max_length` tokens loses its beginning, so that the response,
    which stands at the end, is always judged; the tokenizer's special tokens stay.

    Raises:
        ModelError: the head has no such label, a single label, or (for `margin`) not exactly two; or the model reads
            fewer than `max_length` tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        definition: Definition,
        positive_label: int | str,
        max_length: int,
        batch_size: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._definition = definition
        self._positive = _positive_index(model, positive_label, definition)
        self._batch_size = batch_size
        self._limit, self._logits = reading(model.float().eval(), tokenizer, max_length)
        self._parameters = non_embedding_parameters(model)
        self._tokens = 0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in order.

        Texts are batched by length; padding and neighbours move a score by float32 rounding only (below 1e-4).

        A text without tokens scores NaN, as does one for which the model's logits are not numbers.

        Raises:
            ModelError: a text has a token for which the model has no embedding.
        """
        texts = judged_texts(prompts, responses)
        if not texts:
            return []
        encoded = self._limit.fitted(self._tokenizer(texts, truncation=False, padding=False)["input_ids"])
        scores = in_batches(encoded, self._batch_size, self._forward)
        self._tokens += sum(map(len, encoded))
        return checked_scores(scores, texts, "the reward model")

    @property
    def flops(self) -> float:
        """Forward FLOPs so far: 2 x non-embedding parameters x tokens read.

        Leaves out attention's products of queries, keys and values (small for short texts), and padding.
        """
        return 2.0 * self._parameters * self._tokens

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        """Rewards of one batch of token ids."""
        logits = self._logits(rows)
        values = logits[:, self._positive]
        if self._definition == "margin":
            values = values - logits[:, 1 - self._positive]
        rewards: list[float] = values.tolist()
        return rewards


def reading(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[TokenRows, SequenceLogits]:
    """What fits rows of a tokenizer's to a sequence classifier, and what gives their logits.

    Raises:
        ModelError: the model reads fewer than `max_length` tokens.
    """
    positions = positions_of(model)
    if max_length > positions:
        raise ModelError(
            f"max_length {max_length} is more than the {positions} positions of the reward model: set reward."
            f"max_length to {positions} or less"
        )
    limit = TokenRows(tokenizer, max_length=max_length, vocabulary=model.get_input_embeddings().weight.shape[0])
    probe = [tokenizer.encode(text)[:max_length] for text in (PROBE[:4], " ".join([PROBE] * 3))]
    return limit, SequenceLogits(model, limit.fitted(probe))


def load_classifier_reward(config: RewardConfig, assets: Assets, folder: Path | None) -> ClassifierReward:
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
    definition: Definition = "margin" if config.definition == "margin" else "positive_logit"
    model, tokenizer = load_classifier(name, assets, allow_pickle=config.allow_pickle)
    if folder is None and "positive_label" not in config.model_fields_set:
        _check_default(model, name)
    reward = ClassifierReward(
        model,
        tokenizer,
        definition=definition,
        positive_label=config.positive_label,
        max_length=readable_length(config, model),
        batch_size=config.batch_size,
    )
    (probe,) = reward.score([PROBE], [""])
    if not math.isfinite(probe):
        raise ModelError(f"the reward model {name} gives {probe} for {PROBE!r}: its weights are broken, name another")
    return reward


def non_embedding_parameters(model: nn.Module) -> int:
    """Number of parameters outside of embedding tables: those that multiply in a forward pass."""
    tables = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)


def readable_length(config: RewardConfig, model: PreTrainedModel) -> int:
    """The tokens of a text that are read: `config.max_length`, or the model's positions where these are fewer.

    A number that the configuration gives itself stays: what is too much for a classifier is refused with the number.
    """
    given = config.definition in ("margin", "positive_logit") and "max_length" in config.model_fields_set
    return config.max_length if given else min(config.max_length, positions_of(model))


def _check_default(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError where no positive label is given and the labels' names say that the default, 1, is not it."""
    names = [str(model.config.id2label.get(index, "")) for index in range(model.config.num_labels)]
    known = [label.strip().lower() for label in names]
    positive = [index for index, label in enumerate(known) if label in _POSITIVE]
    if len(known) > 1 and ((positive and 1 not in positive) or known[1] in _NEGATIVE):
        raise ModelError(
            f"the reward model {name} calls its labels {', '.join(names)}, and reward.positive_label is left out, "
            f'which is label 1, {names[1]}: give its name, such as "{names[positive[0] if positive else 0]}"'
        )


def _positive_index(model: PreTrainedModel, label: int | str, definition: Definition) -> int:
    """Index of the positive label in the head's logits."""
    count = model.config.num_labels
    names = [str(model.config.id2label.get(index, f"LABEL_{index}")) for index in range(count)]
    if count < 2:
        raise ModelError(f"the reward model has {count} label, a scalar head: set reward.definition to scalar")
    if definition == "margin" and count != 2:
        raise ModelError(
            f"the reward model has {count} labels and `margin` needs exactly 2: give a classifier with two labels, "
            "or set reward.definition to positive_logit"
        )
    known = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    named = [index for index, name in enumerate(names) if name == str(label)]
    if isinstance(label, bool):
        raise ModelError(f"reward.positive_label {label} is a boolean: write a label in quotes, of {known}")
    if isinstance(label, int) and 0 <= label < count:
        if named not in ([], [label]):
            raise ModelError(
                f"reward.positive_label {label} is the index of {names[label]!r} and the name of label {named[0]}: "
                f'write the name in quotes, as "{names[label]}" or "{label}"'
            )
        return label
    if isinstance(label, str) and len(named) > 1:
        raise ModelError(f"reward.positive_label {label!r} is the name of several labels: give an index, of {known}")
    if isinstance(label, int) or not named:
        raise ModelError(f"reward.positive_label {label!r} is no label of the reward model: it has {known}")
    return named[0]
