"""The part of a configuration that says what responses are worth: the gold reward, and how one is trained.

`docs/own-reward.md` shows each kind.

    >>> RewardConfig(by="rewards.py:brief").function
    'rewards.py:brief'
    >>> RewardConfig(definition="ultrarm").model
    'openbmb/UltraRM-13b'
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

from trimtab.config.fields import CHAT, RewardKind, WordRange
from trimtab.config.models import Config, Dtype
from trimtab.plugins.registry import registry


class RewardTrainingConfig(Config):
    """How a sentence encoder is fine-tuned into the sentiment classifier.

    Each epoch cuts a new snippet of `snippet_words` (drawn evenly, both ends included) out of every review.
    Training freezes the embeddings and the lowest `frozen_layers` layers. Weights above the layers, which start
    almost untrained, learn at `head_learning_rate`. Weights are float32; matrix products round them to `dtype` first,
    which `auto` makes bfloat16 where the hardware multiplies it.
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

    `definition` is a name in the registry of reward kinds, and says which number of `model` the reward is. Of a
    sequence classifier with two labels: `margin`, log p(positive) - log p(negative), or `positive_logit`. With
    `training`, `model` is an encoder that is fine-tuned first; without, it is a ready classifier. `positive_label` is
    the index or name of the positive class; YAML reads yes, no, on and off as booleans unless they stand in quotes.
    Of a scalar head: `scalar` is any sequence classifier with one label, which reads conversations by its own chat
    template, or by `template`, a text with `{prompt}` and `{response}` in any order; `ultrarm` and `starling` are
    openbmb/UltraRM-13b and Nexusflow/Starling-RM-34B by their published prompts. `tokenizer` names another folder for
    the tokenizer.
    A text of more than `max_length` tokens loses its beginning, except for the tokenizer's special tokens.

    `by` replaces a model: a function as `module:function` or `file.py:function`, or the address of a service. A
    request to a service is given up after `timeout` seconds, is made up to `attempts` times, and carries the key in the
    environment variable `key_variable`; these three change no result and take no part in hashes.

    Settings that the kind does not read are refused, and take no part in hashes.
    """

    execution = frozenset({"timeout", "attempts", "key_variable"})

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    definition: RewardKind = "margin"
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
    key_variable: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: Any) -> Any:
        """The default model is a bare encoder, so leaving it out means training it."""
        definition = values.get("definition", "margin") if isinstance(values, dict) else None
        kinds = registry("reward kind")
        if not isinstance(definition, str) or definition not in kinds or values.get("by") is not None:
            return values
        left_out = {"training"} if "model" in values else set()
        defaults = {name: value for name, value in kinds[definition].defaults.items() if name not in left_out}
        return {**defaults, **values}

    @field_validator("positive_label")
    @classmethod
    def _trained_labels_are_known(cls, label: int | str, info: ValidationInfo) -> int | str:
        if info.data.get("training") is not None and label not in (0, 1, "negative", "positive"):
            raise ValueError(f"{label!r} is no label of a trained reward: give negative (0) or positive (1)")
        return label

    @field_validator("by")
    @classmethod
    def _by_is_function_or_address(cls, by: str | None) -> str | None:
        file, _, name = (by or "").rpartition(":")
        if by is not None and not _is_address(by) and not (file and name.isidentifier()):
            raise ValueError(f"{by!r} is no reward: give a function as module:name, or an address as http://...")
        return by

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        reads, set_fields = self._reads(), self.model_fields_set
        unread = sorted(name for name in set_fields - reads if vars(self)[name] is not None)
        faults = []
        if self.by is not None and unread:
            faults.append(f"by names what gives the reward: drop {', '.join(unread)}")
        elif "by" in reads and self.by is None:
            faults.append(f"definition {self.definition} stands for the setting by: give by instead")
        elif unread:
            faults.append(f"definition {self.definition} does not read {', '.join(unread)}: {self._remedy(unread)}")
        template = self.template
        if template not in (None, CHAT) and not ("{prompt}" in template and "{response}" in template):
            faults.append(f"template {template!r} must hold {{prompt}} and {{response}}, or be {CHAT}")
        if "model" in reads - set_fields and self.training is None:
            faults.append(f"definition {self.definition} needs a ready model: name it in model")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _remedy(self, unread: list[str]) -> str:
        kinds = registry("reward kind")
        readers = [name for name in kinds if kinds[name].reads.issuperset(unread) and "by" not in kinds[name].reads]
        return f"drop it, or give definition {' or '.join(readers)}" if readers else "drop it"

    @model_serializer(mode="wrap")
    def _what_is_read(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings that the kind does not read are not written, and take no part in hashes."""
        return {name: value for name, value in write(self).items() if name in self._reads()}

    def _reads(self) -> frozenset[str]:
        return frozenset(self.entry.reads | {"definition" if self.by is None else "by"})

    @property
    def entry(self) -> Any:
        """The entry in the registry of reward kinds (`rewards.kinds.RewardKind`)."""
        by = "function" if self.address is None else "service"
        return registry("reward kind")[self.definition if self.by is None else by]

    @property
    def function(self) -> str | None:
        """The function's file or module and its name; None where the reward is something else."""
        return None if self.by is None or _is_address(self.by) else self.by

    @property
    def address(self) -> str | None:
        """The service's address; None where the reward is something else."""
        return self.by if self.by is not None and _is_address(self.by) else None

    @property
    def kind(self) -> str:
        """What gives the reward, in one word: `classifier`, `reward_model`, `function`, `service`, or a plug-in's."""
        return str(self.entry.noun).replace(" ", "_")

    @property
    def label(self) -> str:
        """What gives the reward, by name."""
        return self.by or (self.model if "model" in self.entry.reads else self.definition)


class JudgeConfig(Config):
    """The second, independent judge (TF-IDF and logistic regression), fitted on snippets of reviews of its own.

    It tells positive reviews from negative ones, whatever the gold reward measures. An experiment has it where the gold
    reward is trained on the same labelled reviews, or where it asks for it: `judge: sentiment`.
    """

    snippet_words: WordRange = (15, 60)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        if isinstance(values, str) and values != "sentiment":
            raise ValueError(f"{values!r} is no judge: there is one, sentiment")
        return {} if isinstance(values, str) else values


def _is_address(by: str) -> bool:
    return by.startswith(("http://", "https://"))
