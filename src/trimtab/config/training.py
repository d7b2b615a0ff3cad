"""The parts of a configuration that say how the small model is trained: on reviews, and on pairs.

>>> TuneConfig(optimizer="rmsprop", learning_rate=5e-3, warmup=50).warmup
50.0
"""

from typing import ClassVar, Literal

from pydantic import Field

from trimtab.config.fields import Loss, Warmup
from trimtab.config.models import Config


class LoraSettings(Config):
    """A LoRA adapter. `top_layers`: the number of uppermost layers that it is put on; None: all."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    top_layers: int | None = Field(None, ge=1)


class TrainingConfig(Config):
    """Settings of both trainings of the small model. Full fine-tuning where `lora` is None.

    `warmup` below 1 is a share of all steps, from 1 on a number of them. `evaluations` are spread evenly over the
    run; the model of the best one (lowest validation loss) is kept. `logging_steps` changes the log alone.
    """

    execution: ClassVar[frozenset[str]] = frozenset({"logging_steps"})

    lora: LoraSettings | None = LoraSettings()
    epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(5e-4, gt=0)
    batch_size: int = Field(16, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    weight_decay: float = Field(0.0, ge=0)
    warmup: Warmup = 0.1
    optimizer: Literal["adamw_torch", "rmsprop"] = "adamw_torch"
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    evaluations: int = Field(4, ge=1)
    logging_steps: int = Field(5, ge=1)
    max_length: int = Field(512, ge=8)


class SftConfig(TrainingConfig):
    """Fine-tuning of the small model on the text of `data.sft_reviews` reviews, with TRL's SFTTrainer.

    Each text begins with the start token and ends with the end token unless `max_length` tokens cut it, so that the
    model writes reviews from its start token alone. `packing` puts several texts into one row of `max_length` tokens.
    """

    evaluations: int = Field(2, ge=1)
    max_length: int = Field(128, ge=8)
    packing: bool = False


class TuneConfig(TrainingConfig):
    """Preference tuning with TRL's DPOTrainer.

    `loss` is a name in the registry of losses (`trimtab.training.losses`); `sft_weight` weighs the likelihood of the
    chosen response in a loss that adds it. `seed` is that of training alone, so that trainings under several seeds
    share everything before them; None is the experiment's. `trackers` get the log while training runs.
    """

    execution = TrainingConfig.execution | {"trackers"}

    loss: Loss = "sigmoid"
    beta: float = Field(0.1, gt=0)
    sft_weight: float = Field(0.1, gt=0)
    trackers: tuple[str, ...] = ()
    seed: int | None = Field(None, ge=0, lt=2**31)
