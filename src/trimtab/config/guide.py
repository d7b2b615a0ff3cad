"""The part of a configuration that says how the test prompts are decoded: the decoders.

>>> DecoderConfig.model_validate({"width": 4, "successors": 4, "chunk": 5, "value": "reward"}).name
'cbs-4-4-5-by-reward'
"""

import itertools
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from trimtab.config.fields import Rows
from trimtab.config.models import Config, ModelConfig, Name
from trimtab.config.search import EarlyRejection, SamplingConfig, TermConfig, ValueConfig, one_or_several, search_faults

Text = Annotated[str, StringConstraints(min_length=1)]
Values = Annotated[
    tuple[ValueConfig, ...],
    BeforeValidator(one_or_several, json_schema_input_type=ValueConfig | tuple[ValueConfig, ...]),
]


class DecoderConfig(Config):
    """One way to decode: a model and a search.

    The base is (width 1, successors 1, chunk none), best-of-N (1, N, none), chunk-level beam search (W, K, L).
    docs/search-settings.md explains each field.
    """

    execution = frozenset({"name"})

    name: Name = Field("", examples=["cbs"])
    """The decoder's name in tables and folders. Without one it is named by its settings, such as `cbs-4-4-5`."""
    model: Literal["large", "untuned", "tuned"] = Field("large", examples=["untuned"])
    """Which model decodes: the large one, or the small one before or after tuning."""
    best_of: Name | None = Field(None, examples=["bon-16"])
    """The name of another decoder: of all its candidates, the best by the gold reward itself. An upper bound."""
    width: int = Field(1, ge=1, examples=[4])
    """W: how many beams are kept."""
    successors: int = Field(1, ge=1, examples=[4])
    """K: how many continuations of each beam are sampled; with width 1 and no chunk, N of best-of-N."""
    chunk: int | None = Field(None, ge=1, validate_default=True, examples=[5])
    """L: tokens between two choices of chunk-level beam search; null chooses among whole responses."""
    beta: float | None = Field(None, examples=[1.0])
    """Emulated fine-tuning: adds beta * (tuned - untuned) logits to those of the model."""
    emulate: tuple[TermConfig, ...] = Field((), examples=[[{"weight": 0.5}]])
    """Emulated fine-tuning with several terms, whose sum is added to the model's logits."""
    value: Values = Field((), examples=["reward"])
    """What judges candidates: one value, or several with weights. Without it the log-ratio of the tuned and untuned
    model."""
    duplicates: Literal["keep", "drop"] = Field("keep", examples=["drop"])
    """With `drop`, of candidates with the same tokens only one competes."""
    groups: int = Field(1, ge=1, examples=[2])
    """Beams are split into this many groups, which keep their own best; it must divide the width."""
    pool: int | None = Field(None, ge=1, examples=[2])
    """A beam that has ended moves to a pool and frees its place; a prompt is done with this many of them. The pool's
    best wins."""
    reject: EarlyRejection | None = Field(None, examples=[{"share": 0.5, "at": [10, 20]}])
    """Best-of-N stops its worst samples early."""
    chunk_ends: tuple[Text, ...] = Field((), examples=[[".", "!", "?"]])
    """A chunk also ends behind one of these texts; `chunk` is then the most tokens of one."""
    vote: str | None = Field(None, examples=["(\\d+)"])
    """A regular expression that finds the answer in a response. Equal answers add up their weight, exp(value); the best
    response of the heaviest answer wins."""
    n_best: int | None = Field(None, ge=1, examples=[2])
    """How many of the best candidates are kept, with their log-probabilities. Null: all, without log-probabilities."""
    budget: float | None = Field(None, gt=0, examples=[2.0e11])
    """FLOPs for one prompt: the search is made as large as they pay for."""

    @model_validator(mode="before")
    @classmethod
    def _no_name_asks_for_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name") in (None, ""):
            return {field: value for field, value in values.items() if field != "name"}
        return values

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        extra = sorted(self.model_fields_set - {"name", "best_of"})
        if self.best_of is not None and extra:
            raise ValueError(f"best_of takes everything from the decoder it names: drop {', '.join(extra)}")
        faults = search_faults(self.width, self.successors, self.chunk, self.groups, self.pool, self.reject, self.vote)
        if self.beta is not None and self.emulate:
            faults.append("beta is the one term of emulated fine-tuning and emulate gives several: drop one of them")
        if self.chunk_ends and self.chunk is None:
            faults.append("chunk_ends has no chunk to end: give in chunk the most tokens of one")
        if self.value and not self.guided:
            faults.append("value has no candidates to judge: give successors")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if not self.name:
            name = re.sub(r"[^A-Za-z0-9._-]", "", self._default_name())[:80]  # as `Name` allows
            object.__setattr__(self, "name", name)
            self.model_fields_set.add("name")
        return self

    def _default_name(self) -> str:
        if self.best_of is not None:
            return f"gold-{self.best_of}"
        parts: list[str] = [self.model] if self.model != "large" and not self.terms else []
        parts += ["-".join(["eft", *(_short(term.weight) for term in self.terms)])] if self.terms else []
        if self.budget is not None:
            parts.append(f"budget-{_short(self.budget)}")
        elif self.chunk is not None:
            parts.append(f"cbs-{self.width}-{self.successors}-{self.chunk}")
        elif self.successors != 1:
            parts.append(f"bon-{self.successors}")
        options = {
            f"groups-{self.groups}": "groups" in self.model_fields_set,
            f"pool-{self.pool}": self.pool is not None,
            "distinct": self.duplicates == "drop",
            "rejecting": self.reject is not None,
            "delimited": bool(self.chunk_ends),
            "vote": self.vote is not None,
        }
        parts += [option for option, used in options.items() if used]
        if self.value not in ((), (ValueConfig(),)):
            labels = [part.label if part.weight == 1 else f"{part.weight:g}-{part.label}" for part in self.value]
            parts += ["by", *labels]
        return "-".join(parts) or "base"

    @field_validator("chunk")
    @classmethod
    def _beams_need_chunks(cls, chunk: int | None, info: ValidationInfo) -> int | None:
        if chunk is None and info.data.get("width", 1) > 1 and info.data.get("best_of") is None:
            raise ValueError(f"width is {info.data['width']} without a chunk: give chunk, or width 1")
        return chunk

    @property
    def guided(self) -> bool:
        """Whether the search has candidates to choose from."""
        return self.width * self.successors > 1 or self.budget is not None

    @property
    def terms(self) -> tuple[TermConfig, ...]:
        """The terms that are added to the model's logits; empty where nothing is."""
        return self.emulate if self.beta is None else (TermConfig(weight=self.beta),)

    @property
    def plain(self) -> bool:
        """Whether this samples the plain model once, unguided: the reference that others are measured against."""
        return self.best_of is None and not self.guided and not self.terms

    @property
    def uses_tuned(self) -> bool:
        """Whether the tuned small model takes part."""
        return self.model == "tuned" or self.guided_by_pair or any(term.tuned is None for term in self.terms)

    @property
    def uses_small(self) -> bool:
        """Whether the small model takes part, untuned or tuned."""
        return self.model != "large" or self.guided_by_pair or any(not (t.tuned and t.untuned) for t in self.terms)

    @property
    def guided_by_pair(self) -> bool:
        """Whether the tuned/untuned pair judges candidates."""
        return self.guided and any(value.uses_pair for value in self.value or (ValueConfig(),))

    @property
    def guided_by_gold(self) -> bool:
        """Whether the gold reward, by which decoders are measured, itself judges candidates: an upper bound."""
        return any(value.uses_gold for value in self.value)

    @property
    def beyond_text(self) -> list[tuple[str, str]]:
        """Settings in use that need more of a model than its texts, and what they need."""
        needs = {
            "beta": ("logits", self.beta is not None),
            "emulate": ("logits", bool(self.emulate)),
            "n_best": ("log-probabilities", self.n_best is not None),
            "budget": ("the model's size", self.budget is not None),
            "chunk_ends": ("each token", bool(self.chunk_ends)),
        }
        return [(setting, need) for setting, (need, used) in needs.items() if used]


def _short(number: float) -> str:
    return f"{number:g}".replace("e+", "e")


class GuideConfig(Config):
    """How the test prompts are decoded: a response ends at an end token, before a stop string or at its limit."""

    execution = frozenset({"rows"})

    tuned: ModelConfig | None = Field(None, examples=[{"name": "HuggingFaceH4/zephyr-7b-beta"}])
    """A model that is tuned already, from `small`: then nothing is tuned. What it does not set of template, start token
    and system message is that of `small`; without a name it is `small` with an adapter. In a file, `pair: NAME` sets
    both models, from the guides that `trimtab guides` lists."""
    max_new_tokens: int = Field(40, ge=1, examples=[48])
    """The most tokens of a response."""
    sampling: SamplingConfig = SamplingConfig()
    """How one token is drawn."""
    stop: tuple[Text, ...] = Field((), examples=[["\n\n"]])
    """A response ends before the first of these texts."""
    rows: Rows = Field(256, examples=[128])
    """Candidates that are decoded together. They are those of one block of prompts, which is what a killed run repeats.
    `auto`: as many as the device has room for, recorded with the first block; it changes no more than rounding."""
    unprompted: int | None = Field(None, ge=1, examples=[5000])
    """A number of responses from the start token alone, instead of responses to test prompts."""
    decoders: tuple[DecoderConfig, ...] = Field((DecoderConfig(),), examples=[[{"model": "large"}, {"successors": 16}]])
    """The ways to decode that are compared, each a row of the table."""

    @field_validator("decoders")
    @classmethod
    def _decoders_fit(cls, decoders: tuple[DecoderConfig, ...]) -> tuple[DecoderConfig, ...]:
        names = [decoder.name for decoder in decoders]
        if not names:
            raise ValueError("the list is empty: name at least one")
        twice = sorted({name for name in names if names.count(name) > 1})
        faults = [f"two decoders are named {', '.join(twice)}: give each a name of its own"] if twice else []
        for first, second in itertools.combinations(dict.fromkeys(names), 2):
            if first.lower() == second.lower():  # their folders would be one where file names ignore case
                faults.append(f"the decoders {first} and {second} differ in upper and lower case alone: rename one")
        picks = {decoder.name for decoder in decoders if decoder.best_of is not None}
        cut = {decoder.name for decoder in decoders if decoder.n_best is not None}
        for decoder in decoders:
            if decoder.best_of is not None and decoder.best_of not in names:
                faults.append(f"{decoder.name} picks from {decoder.best_of}, which is no decoder of this experiment")
            elif decoder.best_of in picks:
                faults.append(f"{decoder.name} picks from {decoder.best_of}, which samples nothing: name one that does")
            elif decoder.best_of in cut:
                faults.append(f"{decoder.name} picks from all of {decoder.best_of}'s candidates: drop its n_best")
        if faults:
            raise ValueError("; ".join(faults))
        return decoders

    def decoder(self, name: str) -> DecoderConfig:
        """The decoder of this name, which must be one of `decoders`."""
        return next(decoder for decoder in self.decoders if decoder.name == name)

    def reference_of(self, decoder: DecoderConfig) -> DecoderConfig | None:
        """The same model decoded without guidance, which gains are measured against; None where it is not asked for.

        The tuned model and EFT over the untuned one are measured against the untuned model.
        """
        source = decoder if decoder.best_of is None else self.decoder(decoder.best_of)
        model = "untuned" if source.model == "tuned" else source.model
        return next((other for other in self.decoders if other.plain and other.model == model), None)
