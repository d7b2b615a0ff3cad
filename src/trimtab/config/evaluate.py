"""The part of a configuration that says what is measured.

>>> EvaluateConfig().confidence
0.95
"""

from pydantic import Field

from trimtab.config.fields import ColumnName
from trimtab.config.models import Config
from trimtab.config.pairs import Threshold


class EvaluateConfig(Config):
    """What is measured. Intervals are percentile bootstraps over prompts.

    The share of responses with a reward below `threshold` is counted; a quantile or deviations are of the untuned
    model's rewards. The tuned model's KL divergence from the untuned one is estimated on the first
    `kl_samples` of its own responses; 0 leaves it out. `columns` are the names of a plug-in's columns of the report,
    beside trimtab's own.
    """

    bootstrap: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    examples: int = Field(4, ge=0)
    threshold: Threshold | None = None
    kl_samples: int = Field(0, ge=0)
    columns: tuple[ColumnName, ...] = ()
