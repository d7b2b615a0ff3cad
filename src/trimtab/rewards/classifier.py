"""A sequence classifier as reward: any checkpoint with a positive and a negative label.

Knows nothing of how the classifier was trained (`training.reward`) or where its files lie (`models.load`).

    >>> reward = load_classifier_reward(RewardConfig(model="lvwerra/distilbert-imdb"), assets, None)  # doctest: +SKIP
    >>> reward.score(["This film"], [" is a joy."])                                                   # doctest: +SKIP
    [4.87]
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.errors import ConfigurationError, ModelError
from trimtab.experiment import RewardConfig
from trimtab.models.load import load_classifier
from trimtab.records import PromptInput
from trimtab.rewards.batches import in_batches
from trimtab.rewards.reward import checked_scores, judged_texts

PROBE = "This film is good."
Definition = Literal["margin", "positive_logit"]


class ClassifierReward:
    """The Reward given by a sequence classifier, computed in float32 on the device that the model is on.

    `definition` is `margin`, log p(positive) - log p(negative), which for two labels is the difference of the two
    logits (nats); or `positive_logit`, the positive label's logit as it is. `positive_label` is its index or its name
    in the model's `id2label`. A text of more than `max_length` tokens loses its beginning, so that the response,
    which stands at the end, is always judged.

    Raises:
        ModelError: the head has no such label, a single label, or (for `margin`) not exactly two; the model reads fewer
            than `max_length` positions; or the tokenizer cannot pad.
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
        self._model = model.float().eval()
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokenizer.truncation_side = "left"
        self._definition = definition
        self._positive = _positive_index(model, positive_label, definition)
        self._max_length = max_length
        self._batch_size = batch_size
        positions = model.config.to_dict().get("max_position_embeddings", max_length)
        if max_length > positions:
            raise ModelError(
                f"max_length {max_length} is more than the {positions} positions of the reward model: set reward."
                f"max_length to {positions} or less"
            )
        if tokenizer.pad_token_id is None:
            raise ModelError("the reward model's tokenizer has no padding token: name one in its tokenizer_config.json")
        self._parameters = non_embedding_parameters(model)
        self._tokens = 0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """One reward for each prompt and response, in order.

        Texts are batched by length; padding and neighbours move a score by float32 rounding only (below 1e-4).

        A text without tokens scores NaN, as does one for which the model's logits are not numbers.
        """
        texts = judged_texts(prompts, responses)
        if not texts:
            return []
        encoded = self._tokenizer(texts, truncation=True, max_length=self._max_length, padding=False)["input_ids"]
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
        batch = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self._model.device)
        logits = self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        values = logits[:, self._positive]
        if self._definition == "margin":
            values = values - logits[:, 1 - self._positive]
        rewards: list[float] = values.tolist()
        return rewards


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
    assert config.definition in ("margin", "positive_logit"), "other definitions are of a scalar head"
    model, tokenizer = load_classifier(name, assets, allow_pickle=config.allow_pickle)
    reward = ClassifierReward(
        model,
        tokenizer,
        definition=config.definition,
        positive_label=config.positive_label,
        max_length=config.max_length,
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


def _positive_index(model: PreTrainedModel, label: int | str, definition: Definition) -> int:
    """Index of the positive label in the head's logits."""
    count = model.config.num_labels
    names = {index: model.config.id2label[index] for index in range(count)}
    if count < 2:
        raise ModelError(f"the reward model has {count} label, a scalar head: set reward.definition to scalar")
    if definition == "margin" and count != 2:
        raise ModelError(
            f"the reward model has {count} labels and `margin` needs exactly 2: give a classifier with two labels, "
            "or set reward.definition to positive_logit"
        )
    found = [index for index, name in names.items() if label in (index, name)]
    if not found:
        known = ", ".join(f"{index} ({name})" for index, name in names.items())
        raise ModelError(f"reward.positive_label {label!r} is no label of the reward model: it has {known}")
    return found[0]
