"""What a tuning configuration is to TRL: losses, steps, the trainer's arguments.

The losses are TRL's own. Knows nothing of pairs.

    >>> LOSSES["hinge_sft"](TuneConfig(loss="hinge_sft", sft_weight=0.1))
    (['hinge', 'sft'], [1.0, 0.1])
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.integrations import get_available_reporting_integrations
from trl import DPOConfig

from trimtab.errors import ConfigurationError, ModelError
from trimtab.experiment import TuneConfig

# Each gives TRL's names of the terms and their weights. With margin = beta * ((log p(chosen) - log p(rejected)) - the
# same of the reference): sigmoid = -log sigmoid(margin), hinge = max(0, 1 - margin), sft = -log p(chosen) a token.
LOSSES: dict[str, Callable[[TuneConfig], tuple[list[str], list[float]]]] = {
    "sigmoid": lambda config: (["sigmoid"], [1.0]),
    "hinge": lambda config: (["hinge"], [1.0]),
    "hinge_sft": lambda config: (["hinge", "sft"], [1.0, config.sft_weight]),
}


def training_steps(rows: int, config: TuneConfig) -> int:
    """Optimizer steps of the whole training, as the transformers trainer counts them."""
    updates = math.ceil(math.ceil(rows / config.batch_size) / config.gradient_accumulation)
    return max(1, math.ceil(config.epochs * updates))


def trainer_arguments(model: PreTrainedModel, config: TuneConfig, folder: Path, seed: int, steps: int) -> DPOConfig:
    """TRL's arguments.

    Raises:
        ConfigurationError: a tracker is not installed, or several GPUs are visible to the one process.
        ModelError: the weights are float16, which cannot be trained without a float32 copy.
    """
    known = get_available_reporting_integrations()
    unknown = sorted(set(config.trackers) - set(known))
    if unknown:
        raise ConfigurationError(
            f"tune.trackers names {', '.join(unknown)}: installed are {', '.join(known) or 'none'}; "
            "install it with pip, or drop it"
        )
    if model.dtype == torch.float16:
        raise ModelError("the small model is in float16, which cannot be tuned: set small.dtype to float32 or bfloat16")
    losses, weights = LOSSES[config.loss](config)
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type=losses,
        loss_weights=weights,
        beta=config.beta,
        disable_dropout=False,  # done by the caller
        precompute_ref_log_probs=True,
        max_length=None,  # rows are cut already
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        gradient_checkpointing=False,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,  # below 1: a fraction of all steps
        optim=config.optimizer,
        lr_scheduler_type=config.schedule,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        eval_strategy="steps",
        eval_steps=steps,  # at the end; EvenEvaluations adds the others
        save_strategy="best",  # and wherever `Checkpoints` asks, which also deletes what is of no use any more
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        bf16=model.dtype == torch.bfloat16,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type != "cpu",
        seed=seed,
        report_to=list(config.trackers) or "none",
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        raise ConfigurationError(
            f"{arguments.n_gpu} GPUs are visible to one process and tuning uses one: set CUDA_VISIBLE_DEVICES=0"
        )
    return arguments
