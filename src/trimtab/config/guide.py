"""The part of a configuration that says how the test prompts are decoded: the decoders.

Types only: reads no file, no network, no models. `docs/search.md` explains each setting.

    >>> DecoderConfig.model_validate({"width": 4, "successors": 4, "chunk": 5, "value": "reward"}).name
    'cbs-4-4-5-by-reward'
"""

import itertools
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from trimtab.config.fields import Rows
from trimtab.config.models import Config, ModelConfig, Name
from trimtab.config.search import (
    EarlyRejection,
    SamplingConfig,
    TermConfig,
    ValueConfig,
    one_or_several,
    search_faults,
)

Text = Annotated[str, StringConstraints(min_length=1)]


class DecoderConfig(Config):
    """One way to decode: a model and a search.

    base is (width 1, successors 1, chunk none), best-of-N (1, N, none), chunk-level beam search (W, K, L).
    `model` is `large`, or the small model `untuned` or `tuned`. `beta` adds beta * (tuned - untuned) to its logits
    (EFT), `emulate` the sum of several such terms. `best_of` names another decoder instead: of all its candidates, the
    best by the gold reward itself. `value` is what the search is guided by wherever it has anything to choose from:
    one value or a weighted mean of several, the tuned/untuned pair where none is given.

    The other fields are options of the search, each explained in docs/search.md.
    """

    execution = frozenset({"name"})

    name: Name = "base"
    model: Literal["large", "untuned", "tuned"] = "large"
    best_of: Name | None = None
    width: int = Field(1, ge=1)
    successors: int = Field(1, ge=1)
    chunk: int | None = Field(None, ge=1, validate_default=True)
    beta: float | None = None
    emulate: tuple[TermConfig, ...] = ()
    value: Annotated[tuple[ValueConfig, ...], BeforeValidator(one_or_several)] = ()
    duplicates: Literal["keep", "drop"] = "keep"
    groups: int = Field(1, ge=1)
    pool: int | None = Field(None, ge=1)
    reject: EarlyRejection | None = None
    chunk_ends: tuple[Text, ...] = ()
    vote: str | None = None
    n_best: int | None = Field(None, ge=1)
    budget: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name") in (None, ""):
            return {**values, "name": _decoder_name(values)}
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
        """What is added to the model's logits; nothing where it decodes as it is."""
        return self.emulate if self.beta is None else (TermConfig(weight=self.beta),)

    @property
    def plain(self) -> bool:
        """Whether this is the model as it is, sampled once: what others are measured against."""
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
    def beyond_text(self) -> list[tuple[str, str, bool]]:
        """Settings that need more of a model than its texts: name, what they need, and whether they are used."""
        return [
            ("beta" if self.beta is not None else "emulate", "logits", bool(self.terms)),
            ("n_best", "log-probabilities", self.n_best is not None),
            ("budget", "the model's size", self.budget is not None),
            ("chunk_ends", "each token", bool(self.chunk_ends)),
        ]


def _decoder_name(values: dict[str, Any]) -> str:
    if values.get("best_of"):
        return f"gold-{values['best_of']}"
    width, successors, chunk = (_count(values.get(name, 1)) for name in ("width", "successors", "chunk"))
    model = values.get("model", "large")
    parts = [] if model == "large" else [str(model)]
    if values.get("beta") is not None:
        parts = [f"eft-{_short(values['beta'])}"]
    elif isinstance(values.get("emulate"), list):
        weights = [each.get("weight") if isinstance(each, dict) else None for each in values["emulate"]]
        parts = ["-".join(["eft", *map(_short, weights)])]
    if values.get("budget") is not None:
        parts.append(f"budget-{_short(values['budget'])}")
    elif values.get("chunk") is not None:
        parts.append(f"cbs-{width}-{successors}-{chunk}")
    elif successors != "1":
        parts.append(f"bon-{successors}")
    return "-".join([*parts, *_option_names(values)]) or "base"


def _short(number: Any) -> str:
    """A number as it may stand in a name; what is no number is named as a fault elsewhere."""
    if isinstance(number, int | float) and math.isfinite(number):
        return f"{number:g}".replace("e+", "e")
    return str(number)


def _count(number: Any) -> str:
    """A whole number as it may stand in a name, also where YAML writes it as 4.0."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _option_names(values: dict[str, Any]) -> list[str]:
    """What the options of a search add to a decoder's name: nothing where they are not used."""
    names = [f"{option}-{_count(values[option])}" for option in ("groups", "pool") if values.get(option)]
    spoken = {"duplicates": "distinct", "reject": "rejecting", "chunk_ends": "delimited", "vote": "vote"}
    names += [name for option, name in spoken.items() if values.get(option) not in (None, "keep", [])]
    given = values.get("value", [])
    try:
        judges = [ValueConfig.model_validate(each) for each in one_or_several(given)]
    except ValueError:
        return names  # its own fault is named elsewhere
    if judges and not (len(judges) == 1 and judges[0] == ValueConfig()):
        shares = [each.label if each.weight == 1 else f"{each.weight:g}-{each.label}" for each in judges]
        names.append("-".join(["by", *shares]))
    return names


class GuideConfig(Config):
    """Decoding of the test prompts. Prompts are decoded together in blocks, the unit of resume: as many prompts as have
    `rows` candidates under a decoder, and one at least. `auto` rows are what the device has room for: the number is
    said before the run begins, recorded in `plan.json` beside the first block, and kept by whoever goes on from there;
    another machine may come to another number, and so to other rounding.

    A response ends before the first of the `stop` strings, besides at an end token and at `max_new_tokens`.
    `unprompted` takes the place of the test prompts: so many responses, each from the model's start token alone.

    `tuned` is a model that has been tuned already, over `small`, its untuned self: then nothing is tuned. What it
    leaves out of how it is shown prompts is as for `small`; without a name it is `small` with an adapter. In a file,
    `pair: NAME` stands for both, from the guides that `trimtab guides` lists.
    """

    execution = frozenset({"rows"})

    tuned: ModelConfig | None = None
    max_new_tokens: int = Field(40, ge=1)
    sampling: SamplingConfig = SamplingConfig()
    stop: tuple[Text, ...] = ()
    rows: Rows = 256
    unprompted: int | None = Field(None, ge=1)
    decoders: tuple[DecoderConfig, ...] = (DecoderConfig(),)

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
        for other in self.decoders:
            if other.plain and other.model == model:
                return other
        return None
