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
    """A reward, given in one of three ways."""

    value: float | None = Field(None, examples=[0.5])
    """A reward."""
    quantile: float | None = Field(None, ge=0, le=1, examples=[0.5])
    """A quantile of the run's rewards."""
    deviations: float | None = Field(None, examples=[0.0])
    """The mean of the run's rewards plus this many standard deviations; for a difference of rewards, this many
    alone."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.value, self.quantile, self.deviations)) != 1:
            raise ValueError("give either value, quantile or deviations")
        return self


class PairsConfig(Config):
    """Which two responses make a pair, and who wins. docs/pairs.md explains each strategy."""

    strategy: Strategy = Field("best_worst", examples=["best_worst"])
    """Which two responses make a pair."""
    labels: Literal["bradley_terry", "argmax"] = Field("argmax", examples=["bradley_terry"])
    """Who wins: the higher reward (`argmax`), or drawn by the Bradley-Terry probability."""
    per_prompt: int = Field(1, ge=1, examples=[3])
    """The most pairs of the responses to one prompt."""
    total: int | None = Field(None, ge=1, examples=[2000])
    """How many pairs are drawn of `unprompted` responses, which all share one prompt."""
    margin: Threshold = Field(Threshold(value=1.0), examples=[{"deviations": 0.5}])
    """Of the strategy `margin`: the rewards of a pair differ by more than this. A quantile is one of all differences of
    two responses to one prompt."""
    threshold: Threshold = Field(Threshold(quantile=0.5), examples=[{"deviations": 0}])
    """Of the strategy `straddle`: one response lies below this, one above."""
    low: Threshold = Field(Threshold(quantile=0.01), examples=[{"quantile": 0.01}])
    """Of the strategies `flat` and `rarer_wins`: the lowest reward that is used."""
    high: Threshold = Field(Threshold(quantile=0.99), examples=[{"quantile": 0.99}])
    """Of the strategies `flat` and `rarer_wins`: the highest reward that is used."""
    bins: int = Field(20, ge=2, examples=[20])
    """Of the strategies `flat` and `rarer_wins`: the number of bins of equal width between `low` and `high`."""

    @field_validator("labels")
    @classmethod
    def _labels_have_an_effect(cls, labels: str, info: ValidationInfo) -> str:
        strategy = info.data.get("strategy")  # missing where it has a fault of its own
        if labels == "bradley_terry" and strategy is not None and registry("strategy")[strategy].decides_winner:
            raise ValueError(f"bradley_terry draws labels by reward and {strategy} decides who wins: drop labels")
        return labels


class SynthesizeConfig(Config):
    """Responses of the untuned small model to the tuning prompts, which the gold reward scores."""

    execution = frozenset({"rows"})

    samples: int = Field(8, ge=2, examples=[8])
    """Responses to each prompt."""
    unprompted: bool = Field(False, examples=[True])
    """Draws as many responses from the model's start token alone; they share one empty prompt."""
    max_new_tokens: int = Field(40, ge=1, examples=[40])
    """The most tokens of a response."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0)
    """How one token is drawn."""
    rows: Rows = Field(256, examples=[128])
    """Responses that are sampled together; they are those of one block of prompts. `auto` as for `guide.rows`."""
