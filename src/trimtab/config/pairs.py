"""The parts of a configuration that say how samples are drawn and which two make a pair; see `docs/pairs.md`.

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
    """A reward: an absolute `value`, a `quantile` of the run's rewards, or their mean plus a multiple of their standard
    deviation, `deviations`. For a difference of rewards, `deviations` is a multiple of the standard deviation alone.
    """

    value: float | None = None
    quantile: float | None = Field(None, ge=0, le=1)
    deviations: float | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.value, self.quantile, self.deviations)) != 1:
            raise ValueError("give either value, quantile or deviations")
        return self


class PairsConfig(Config):
    """Which two responses make a pair, and who wins.

    The strategy `margin` uses `margin` (rewards differ by more than that; a quantile is one of all differences of two
    responses to one prompt), `straddle` uses `threshold` (one response below, one above). `flat` and `rarer_wins` sort
    rewards into `bins` of equal width from `low` to `high`, and use no response beyond them. With the `labels`
    `argmax` the higher reward wins; a strategy may decide itself who wins. A prompt's responses give at most
    `per_prompt` pairs. `unprompted` responses all share one prompt, from which `total` pairs are drawn.
    """

    strategy: Strategy = "best_worst"
    labels: Literal["bradley_terry", "argmax"] = "argmax"
    per_prompt: int = Field(1, ge=1)
    total: int | None = Field(None, ge=1)
    margin: Threshold = Threshold(value=1.0)
    threshold: Threshold = Threshold(quantile=0.5)
    low: Threshold = Threshold(quantile=0.01)
    high: Threshold = Threshold(quantile=0.99)
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

    `unprompted` draws as many samples from the model's `start_token` alone; they share one empty prompt. `rows`
    samples are decoded together: `rows // samples` prompts, the unit of resume; `auto` as for `guide.rows`.
    """

    execution = frozenset({"rows"})

    samples: int = Field(8, ge=2)
    unprompted: bool = False
    max_new_tokens: int = Field(40, ge=1)
    sampling: SamplingConfig = SamplingConfig(temperature=1.0)
    rows: Rows = 256
