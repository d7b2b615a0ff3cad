"""Parts of a decoder's configuration: how tokens are drawn, what judges candidates, which settings go together.

>>> ValueConfig(by="rewards.py:cheerful", per_token=True).label
'cheerful-per-token'
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from trimtab.config.fields import Temperature
from trimtab.config.models import Config, ModelConfig
from trimtab.plugins.registry import registry
from trimtab.plugins.user_functions import source_hash


class SamplingConfig(Config):
    """How one token is drawn. In the order of transformers: penalty, temperature, top-k, top-p, min-p."""

    temperature: Temperature = Field(0.7, ge=0, examples=[1.0])
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = Field(50, ge=0, examples=[0])
    """Only this many of the likeliest tokens are drawn; 0: all."""
    top_p: float = Field(1.0, gt=0, le=1, examples=[0.9])
    """Only the likeliest tokens that hold this share of the probability are drawn; 1: all."""
    min_p: float = Field(0.0, ge=0, le=1, examples=[0.05])
    """Only tokens of at least this share of the likeliest one's probability are drawn; 0: all."""
    repetition_penalty: float = Field(1.0, gt=0, examples=[1.1])
    """Above 1, tokens of the prompt and of the response so far become less likely."""


class ValueConfig(Config):
    """One value that judges candidates. A text stands for `by`."""

    shorthand = "by"

    by: str = Field("implicit", examples=["reward"])
    """`implicit` (the log-ratio of the tuned and untuned model), `reward` (the gold reward), a plug-in's name, or a
    Python function as `file.py:function` or `module:function`, which gets texts and gives one number for each."""
    weight: float = Field(1.0, gt=0, examples=[0.5])
    """Its weight among several values."""
    steps: Literal["sum", "min"] | None = Field(None, examples=["min"])
    """Scores each chunk and combines these scores, as a process reward model is used."""
    per_token: bool = Field(False, examples=[True])
    """Divides by the number of the response's tokens."""

    @field_validator("by")
    @classmethod
    def _is_known(cls, by: str) -> str:
        module, _, name = by.rpartition(":")
        values = registry("value")
        if by not in values and not (module and name.isidentifier()):
            raise ValueError(f"{by!r} is no value: give {', '.join(values)}, or a function as module:name")
        return by

    @field_validator("steps")
    @classmethod
    def _steps_are_scored(cls, steps: str | None, info: ValidationInfo) -> str | None:
        by, values = info.data.get("by", ""), registry("value")
        if steps is not None and by in values and values[by].sums_tokens:
            raise ValueError(f"the {by} value is a sum over tokens already: drop steps")
        return steps

    @property
    def function(self) -> str | None:
        """The function as `module:name`; None where the value is an entry of the registry."""
        return self.by if ":" in self.by else None

    @property
    def kind(self) -> Any:
        """The entry of the registry, a `search.values.ValueKind`; None where the value is a function."""
        return None if self.function else registry("value")[self.by]

    @property
    def uses_pair(self) -> bool:
        """Whether the tuned and the untuned model take part."""
        return bool(self.kind and self.kind.uses_pair)

    @property
    def uses_gold(self) -> bool:
        """Whether the gold reward takes part, by which decoders are measured."""
        return bool(self.kind and self.kind.uses_gold)

    @property
    def words(self) -> str:
        """What ranks candidates, in words; a function by its name."""
        return str(self.kind.words if self.kind else self.by)

    def identity(self) -> dict[str, str]:
        """The hash of the code that the value runs, where that is a user's."""
        if self.function is None:
            return dict(self.kind.identity())
        return {f"code of {self.function}": source_hash(self.function)}

    @property
    def label(self) -> str:
        """The value in a decoder's name."""
        options = [f"{self.steps}-of-steps"] if self.steps else []
        return "-".join([self.by.rpartition(":")[2], *options, *(["per-token"] if self.per_token else [])])


class EarlyRejection(Config):
    """Best-of-N drops the worst `share` of its samples at each of these response lengths, in tokens."""

    share: float = Field(0.5, gt=0, lt=1, examples=[0.5])
    """The share of samples that is dropped each time."""
    at: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, examples=[[10, 20]])
    """Lengths of the response, in tokens, at which samples are dropped."""

    @field_validator("at")
    @classmethod
    def _in_order(cls, at: tuple[int, ...]) -> tuple[int, ...]:
        if list(at) != sorted(set(at)):
            raise ValueError(f"{list(at)} is in no order: give growing lengths")
        return at


class TermConfig(Config):
    """One term of emulated fine-tuning: `weight` times the logits' difference of a tuned and an untuned model.

    A model that is not named is the experiment's own. Each is shown prompts in its own template.
    """

    weight: float = Field(examples=[0.5])
    """The factor of the difference of logits."""
    tuned: ModelConfig | None = Field(None, examples=[{"name": "me/my-tuned"}])
    """The tuned model; without it the experiment's own."""
    untuned: ModelConfig | None = Field(None, examples=[{"name": "me/my-untuned"}])
    """The untuned model; without it the experiment's own."""


def one_or_several(value: Any) -> Any:
    """Accept one value in the place of a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def search_faults(
    width: int,
    successors: int,
    chunk: int | None,
    groups: int,
    pool: int | None,
    reject: EarlyRejection | None,
    vote: str | None,
) -> list[str]:
    """What is wrong with settings of a search that do not go together; nothing where they do."""
    faults = []
    if width % groups:
        faults.append(f"groups is {groups} and width {width}: give a number of groups that divides the width")
    if pool is not None and groups > 1:
        faults.append("pool and groups do not go together: drop one of them")
    if pool is not None and chunk is None:
        faults.append("pool frees slots for the next chunk and there is one only: give chunk")
    if reject is not None and (chunk is not None or successors < 2):
        faults.append("reject drops samples of best-of-N: give successors, and no chunk")
    try:
        re.compile(vote or "")
    except re.error as error:
        faults.append(f"vote {vote!r} is no regular expression: {error}")
    return faults
