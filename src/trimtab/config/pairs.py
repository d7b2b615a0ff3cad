"""The parts of a configuration that say how samples are drawn, which two make a pair, and the rewards that this names.

Types only: reads no file, no network, no models. `docs/pairs.md` explains each strategy.

    >>> PairsConfig(strategy="straddle", threshold=Threshold(deviations=0)).threshold.deviations
    0.0
"""

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trimtab.config.fields import Rows, Strategy
from trimtab.config.models import Config
from trimtab.config.search import SamplingConfig
from trimtab.plugins.registry import registry


class Threshold(Config):
    """A reward: an absolute `value`; a `quantile` of the rewards at hand; or their mean plus so many standard
    `deviations`. Where a difference of rewards is meant, so many standard deviations alone.
    """

    value: float | None = None
    quantile: float | None = Field(None, ge=0, le=1)
    deviations: float | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(given is not None for given in (self.value, self.quantile, self.deviations)) != 1:
            raise ValueError("give either value, quantile or deviations")
        return self


LOW, HIGH = Threshold(quantile=0.01), Threshold(quantile=0.99)


class PairsConfig(Config):
    """Which two responses make a pair, and who wins.

    `margin` is used by the strategy `margin` (rewards differ by more than that; a quantile is one of all differences
    of two responses to one prompt), `threshold` by `straddle` (one response below, one above). `flat` and
    `rarer_wins` sort rewards into `bins` of equal width from `low` to `high`, and take no response beyond them.
    `labels` follow the rewards: `argmax` lets the higher one win; `rarer_wins` has no use for them.
    `per_prompt` pairs are made of each prompt's responses at most. `unprompted` responses all share one prompt, from
    which `total` pairs are drawn.
    """

    strategy: Strategy = "best_worst"
    labels: Literal["bradley_terry", "argmax"] = "argmax"
    per_prompt: int = Field(1, ge=1)
    total: int | None = Field(None, ge=1)
    margin: Threshold = Threshold(value=1.0)
    threshold: Threshold = Threshold(quantile=0.5)
    low: Threshold = LOW
    high: Threshold = HIGH
    bins: int = Field(20, ge=2)

    @field_validator("labels")
    @classmethod
    def _labels_have_an_effect(cls, labels: str, info: ValidationInfo) -> str:
        strategy = info.data.get("strategy")  # missing where it has a fault of its own
        if labels == "bradley_terry" and strategy is not None and registry("strategy")[strategy].decides_winner:
            raise ValueError(f"bradley_terry draws labels by reward and {strategy} decides who wins: drop labels")
        return labels


class SynthesizeConfig(Config):
    """Samples of the untuned small model, scored by the gold reward: `samples` for each of the tuning prompts.

    `unprompted`: as many samples, but all from the model's `start_token` alone; they share one empty prompt. `rows`
    samples are decoded together: `rows // samples` prompts, which are the unit of resume; `auto` as for `guide.rows`.
    """

    execution = frozenset({"rows"})

    samples: int = Field(8, ge=2)
    unprompted: bool = False
    max_new_tokens: int = Field(40, ge=1)
    sampling: SamplingConfig = SamplingConfig(temperature=1.0)
    rows: Rows = 256
