"""The part of a configuration that says what responses are worth: the gold reward, and how one is trained.

Types only: reads no file, no network, no models. `docs/own-reward.md` shows each kind.

    >>> RewardConfig(by="rewards.py:brief").function
    'rewards.py:brief'
"""

from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from trimtab.config.fields import CHAT, WordRange
from trimtab.config.models import Config, Dtype

CLASSIFIED = ("margin", "positive_logit")
"""Definitions of a reward by a classifier's labels; the others are of a scalar head."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "scalar": {"max_length": 2048, "batch_size": 8},
    "ultrarm": {"max_length": 2048, "batch_size": 8, "model": "openbmb/UltraRM-13b"},
    "starling": {"max_length": 2048, "batch_size": 8, "model": "Nexusflow/Starling-RM-34B"}
    | {"tokenizer": "01-ai/Yi-34B-Chat"},
}


class RewardTrainingConfig(Config):
    """How a sentence encoder is fine-tuned into the sentiment classifier.

    Each epoch cuts a new snippet of `snippet_words` (drawn evenly, both ends included) out of every review.
    Training freezes the embeddings and the lowest `frozen_layers` layers. Weights above the layers, which start
    almost untrained, learn at `head_learning_rate`. Weights are float32; what is multiplied is rounded to `dtype`
    first, for `auto` to bfloat16 where the hardware multiplies it.
    """

    epochs: int = Field(1, ge=1)
    snippet_words: WordRange = (20, 60)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    head_learning_rate: float = Field(1.5e-3, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    frozen_layers: int = Field(2, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class RewardConfig(Config):
    """The gold reward: a classifier, a reward model with a scalar head, a Python function or a service.

    `definition` says which number of `model` it is. Of a sequence classifier with two labels: `margin`,
    log p(positive) - log p(negative), or `positive_logit`. With `training`, `model` is an encoder that is fine-tuned
    first; without, it is a ready classifier. `positive_label` is the index or name of the positive class; YAML reads
    yes, no, on and off as booleans unless they stand in quotes.
    Of a scalar head: `scalar` is any sequence classifier with one label, which reads conversations by its own chat
    template, or by `template`, a text with `{prompt}` and `{response}` in any order; `ultrarm` and `starling` are
    openbmb/UltraRM-13b and Nexusflow/Starling-RM-34B by their published prompts. `tokenizer` names another folder for
    the tokenizer.
    What is longer than `max_length` tokens loses its beginning, except for the tokenizer's special tokens.

    `by` is something else than a model: a function as `module:function` or `file.py:function`, or the address of a
    service. A service is waited for `timeout` seconds, `attempts` times, and is sent the key in the environment
    variable `key_variable`; these three change no result and take no part in hashes.
    """

    execution = frozenset({"timeout", "attempts", "key_variable"})

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    definition: Literal["margin", "positive_logit", "scalar", "ultrarm", "starling"] = "margin"
    training: RewardTrainingConfig | None = None
    positive_label: int | str = 1
    max_length: int = Field(256, ge=8)
    batch_size: int = Field(64, ge=1)
    allow_pickle: bool = False
    by: str | None = None
    template: str | None = None
    tokenizer: str | None = None
    dtype: Dtype = "float32"
    timeout: float = Field(60.0, gt=0)
    attempts: int = Field(6, ge=1)
    key_variable: str | None = Field(None)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: Any) -> Any:
        """The default model is a bare encoder, so leaving it means training it; a scalar head reads long texts."""
        if not isinstance(values, dict):
            return values
        definition = values.get("definition")
        if isinstance(definition, str) and definition in _DEFAULTS:
            return {**_DEFAULTS[definition], **values}
        if "model" not in values and values.get("by") is None:
            return {"training": {}, **values}
        return values

    @field_validator("positive_label")
    @classmethod
    def _trained_labels_are_known(cls, label: int | str, info: ValidationInfo) -> int | str:
        if info.data.get("training") is not None and label not in (0, 1, "negative", "positive"):
            raise ValueError(f"{label!r} is no label of what training makes: give negative (0) or positive (1)")
        return label

    @field_validator("by")
    @classmethod
    def _is_known(cls, by: str | None) -> str | None:
        place, _, name = (by or "").rpartition(":")
        if by is not None and not _is_address(by) and not (place and name.isidentifier()):
            raise ValueError(f"{by!r} is no reward: give a function as module:name, or an address as http://...")
        return by

    @model_validator(mode="after")
    def _kind_is_one(self) -> Self:
        faults = []
        given = sorted(self.model_fields_set & {"model", "definition", "training", "template", "tokenizer"})
        if self.by is not None and given:
            faults.append(f"by names what gives the reward: drop {', '.join(given)}")
        if self.training is not None and self.definition not in CLASSIFIED:
            faults.append(f"training makes a classifier of two labels: drop it, or definition {self.definition}")
        template = CHAT if self.template is None else self.template
        if self.template is not None and self.definition != "scalar":
            faults.append(f"template is for definition scalar, {self.definition} reads as it was trained: drop it")
        elif template != CHAT and not ("{prompt}" in template and "{response}" in template):
            faults.append(f"template {template!r} must hold {{prompt}} and {{response}}, or be {CHAT}")
        if self.by is None and self.definition == "scalar" and "model" not in self.model_fields_set:
            faults.append("definition scalar is of a reward model: name it in model")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_serializer(mode="wrap")
    def _what_is_read(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A function or a service has no model: nothing of one is written, or takes part in a hash."""
        values: dict[str, Any] = write(self)
        read = ("by", "batch_size", "timeout", "attempts", "key_variable")
        return values if self.by is None else {name: values[name] for name in read if name in values}

    @property
    def function(self) -> str | None:
        """The function's place and name; None where the reward is something else."""
        return None if self.by is None or _is_address(self.by) else self.by

    @property
    def address(self) -> str | None:
        """The service's address; None where the reward is something else."""
        return self.by if self.by is not None and _is_address(self.by) else None

    @property
    def kind(self) -> str:
        """What gives the reward: `classifier`, `reward_model`, `function` or `service`."""
        if self.by is not None:
            return "function" if self.address is None else "service"
        return "classifier" if self.definition in CLASSIFIED else "reward_model"

    @property
    def label(self) -> str:
        """What gives the reward, by name."""
        return self.by or self.model


class JudgeConfig(Config):
    """The second, independent judge (TF-IDF and logistic regression), fitted on snippets of reviews of its own."""

    snippet_words: WordRange = (15, 60)


def _is_address(by: str) -> bool:
    return by.startswith(("http://", "https://"))
