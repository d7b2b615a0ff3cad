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
    """How an encoder is trained into a classifier of sentiment, on snippets of labelled reviews."""

    epochs: int = Field(1, ge=1, examples=[1])
    """Passes over the reviews; each cuts a new snippet out of every review."""
    snippet_words: WordRange = Field((20, 60), examples=[[20, 60]])
    """Least and greatest number of words of a snippet; drawn evenly."""
    batch_size: int = Field(16, ge=1, examples=[16])
    """Snippets in a batch."""
    learning_rate: float = Field(3e-4, gt=0, examples=[3e-4])
    """The learning rate of the layers."""
    head_learning_rate: float = Field(1.5e-3, gt=0, examples=[1.5e-3])
    """The learning rate of the weights above the layers, which start almost untrained."""
    warmup: float = Field(0.1, ge=0, lt=1, examples=[0.1])
    """The share of all steps in which the learning rate rises."""
    frozen_layers: int = Field(2, ge=0, examples=[3])
    """This many lowest layers, and the embeddings, are not trained."""
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", examples=["float32"])
    """What the factors of matrix products are rounded to; weights are float32. `auto` is bfloat16 where the hardware
    multiplies it."""


class RewardConfig(Config):
    """The gold reward: a classifier, a reward model with a scalar head, a Python function or a service.

    A text with a colon stands for `by`, a function or an address; any other text for `model`. Settings that the kind
    does not read are refused, and take no part in hashes. docs/own-reward.md shows each kind.
    """

    execution = frozenset({"timeout", "attempts", "key_variable"})
    shorthand = "model"

    model: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1, examples=["lvwerra/distilbert-imdb"])
    """A sequence classifier or reward model; with `training`, an encoder. The default is an encoder that is trained."""
    definition: RewardKind = Field("margin", examples=["scalar"])
    """Which number of the model the reward is."""
    training: RewardTrainingConfig | None = Field(None, examples=[{"frozen_layers": 3}])
    """With it, the model is first trained on reviews."""
    positive_label: int | str = Field(1, examples=["POSITIVE"])
    """Of a classifier with two labels: the index or name of the positive one."""
    max_length: int = Field(256, ge=8, examples=[512])
    """A text of more tokens loses its beginning, except for special tokens."""
    batch_size: int = Field(64, ge=1, examples=[16])
    """Texts that are read together, or sent in one request."""
    allow_pickle: bool = Field(False, examples=[True])
    """Whether weights may be read from pickled files, where there are no others."""
    by: str | None = Field(None, examples=["rewards.py:score"])
    """Instead of a model: a Python function as `file.py:function` or `module:function`, or the address of a service."""
    template: str | None = Field(None, examples=["Question: {prompt} Answer: {response}"])
    """Of a scalar head: how it reads prompt and response; `chat` is its tokenizer's chat template."""
    tokenizer: str | None = Field(None, examples=["01-ai/Yi-34B-Chat"])
    """The folder or name of the tokenizer, where it does not lie with the model."""
    dtype: Dtype = Field("float32", examples=["bfloat16"])
    """The type of the weights."""
    timeout: float = Field(60.0, gt=0, examples=[60.0])
    """Of a service: seconds that a request may take."""
    attempts: int = Field(6, ge=1, examples=[6])
    """Of a service: how often a request is tried."""
    key_variable: str | None = Field(None, examples=["REWARD_KEY"])
    """Of a service: the environment variable that holds the key."""

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """A function as `file.py:function` and a service's address stand for `by`, another text for `model`."""
        if not isinstance(value, str):
            return super().long_form(value)
        if value.endswith(".py"):
            raise ValueError(f"{value} is a file: name the function in it, as {value}:score")
        return {"by" if ":" in value else "model": value}

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

    snippet_words: WordRange = Field((15, 60), examples=[[15, 60]])
    """Least and greatest number of words of the snippets that it is fitted on."""

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """The fields of the judge of this name.

        Raises:
            ValueError: there is no judge of this name.
        """
        if isinstance(value, str) and value != "sentiment":
            raise ValueError(f"{value!r} is no judge: there is one, sentiment")
        return {} if isinstance(value, str) else value


def _is_address(by: str) -> bool:
    return by.startswith(("http://", "https://"))
