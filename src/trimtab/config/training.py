"""The parts of a configuration that say how the small model is trained: on reviews, and on pairs.

>>> TuneConfig(optimizer="rmsprop", learning_rate=5e-3, warmup=50).warmup
50.0
"""

from typing import ClassVar, Literal

from pydantic import Field

from trimtab.config.fields import Loss, Warmup
from trimtab.config.models import Config


class LoraSettings(Config):
    """A LoRA adapter."""

    rank: int = Field(16, ge=1, examples=[8])
    """The rank of the adapter's matrices."""
    alpha: int = Field(32, ge=1, examples=[32])
    """The scale of the adapter: alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1, examples=[0.05])
    """The share of the adapter's inputs that training drops."""
    top_layers: int | None = Field(None, ge=1, examples=[12])
    """How many of the uppermost layers it is put on; null: all."""


class TrainingConfig(Config):
    """Settings of both trainings of the small model."""

    execution: ClassVar[frozenset[str]] = frozenset({"logging_steps"})

    lora: LoraSettings | None = Field(LoraSettings(), examples=[{"rank": 8, "top_layers": 12}])
    """The adapter that is trained; null trains all weights."""
    epochs: float = Field(1.0, gt=0, examples=[3])
    """Passes over the data."""
    learning_rate: float = Field(5e-4, gt=0, examples=[1e-3])
    """The greatest learning rate."""
    batch_size: int = Field(16, ge=1, examples=[8])
    """Pairs or texts in a batch."""
    gradient_accumulation: int = Field(1, ge=1, examples=[4])
    """Batches in a step."""
    weight_decay: float = Field(0.0, ge=0, examples=[0.05])
    """The weight decay of the optimizer."""
    warmup: Warmup = Field(0.1, examples=[50])
    """Steps in which the learning rate rises: below 1 a share of all steps, from 1 on their number."""
    optimizer: Literal["adamw_torch", "rmsprop"] = Field("adamw_torch", examples=["rmsprop"])
    """The optimizer, by its name in transformers."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear", examples=["cosine"])
    """How the learning rate falls after the warm-up, by its name in transformers."""
    evaluations: int = Field(4, ge=1, examples=[2])
    """Evaluations, spread evenly over the training; the model of the lowest validation loss is kept."""
    logging_steps: int = Field(5, ge=1, examples=[10])
    """Steps between two lines of the log."""
    max_length: int = Field(512, ge=8, examples=[128])
    """The most tokens of a text, prompt and response together; longer ones are cut."""


class SftConfig(TrainingConfig):
    """Training of the small model on the text of reviews, with TRL's SFTTrainer.

    Each text begins with the start token and ends with the end token unless it is cut, so that the model writes reviews
    from its start token alone.
    """

    evaluations: int = Field(2, ge=1, examples=[1])
    """Evaluations, spread evenly over the training; the model of the lowest validation loss is kept."""
    max_length: int = Field(128, ge=8, examples=[72])
    """The most tokens of a text; longer ones are cut."""
    packing: bool = Field(False, examples=[True])
    """Puts several texts into one row of `max_length` tokens."""


class TuneConfig(TrainingConfig):
    """Preference tuning of the small model on pairs, with TRL's DPOTrainer."""

    execution = TrainingConfig.execution | {"trackers"}

    loss: Loss = Field("sigmoid", examples=["hinge"])
    """The loss of the pairs."""
    beta: float = Field(0.1, gt=0, examples=[1.0])
    """The beta of DPO and SLiC-HF: the factor of log p_tuned - log p_untuned in the loss."""
    sft_weight: float = Field(0.1, gt=0, examples=[0.1])
    """The weight of the chosen response's likelihood, in a loss that adds it."""
    trackers: tuple[str, ...] = Field((), examples=[["tensorboard"]])
    """Where the log goes while training runs: names that transformers knows."""
    seed: int | None = Field(None, ge=0, lt=2**31, examples=[1])
    """The seed of training alone, so that trainings share all that comes before them; null: that of the experiment."""
