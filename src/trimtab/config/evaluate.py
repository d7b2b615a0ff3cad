"""The part of a configuration that says what is measured.

>>> EvaluateConfig().confidence
0.95
"""

from pydantic import Field

from trimtab.config.fields import ColumnName
from trimtab.config.models import Config
from trimtab.config.pairs import Threshold


class EvaluateConfig(Config):
    """What is measured."""

    bootstrap: int = Field(2000, ge=100, examples=[2000])
    """How often prompts are drawn anew for an interval."""
    confidence: float = Field(0.95, gt=0, lt=1, examples=[0.95])
    """The confidence of all intervals, percentile bootstraps over prompts."""
    examples: int = Field(4, ge=0, examples=[4])
    """How many prompts the page shows with the responses of every decoder."""
    threshold: Threshold | None = Field(None, examples=[{"deviations": 0}])
    """The share of responses with a reward below this is counted, too. A quantile or deviations are of the untuned
    model's rewards."""
    kl_samples: int = Field(0, ge=0, examples=[64])
    """How many of the tuned model's own responses its KL divergence from the untuned one is estimated on; 0: none."""
    columns: tuple[ColumnName, ...] = Field((), examples=[["words"]])
    """Names of a plug-in's columns that the table shows beside trimtab's own."""
