"""A training configuration as TRL's arguments."""

import logging
import math
import os
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from trimtab.config.training import TrainingConfig
from trimtab.errors import ConfigurationError, ModelError
from trimtab.store.distributed import launched, sharding
from trimtab.training.job import TrainingJob

_log = logging.getLogger(__name__)


def training_steps(rows: int, config: TrainingConfig) -> int:
    """Optimizer steps of the whole training, as the transformers trainer counts them."""
    updates = math.ceil(math.ceil(rows / config.batch_size) / config.gradient_accumulation)
    return max(1, math.ceil(config.epochs * updates))


def shared_arguments(model: PreTrainedModel, config: TrainingConfig, job: TrainingJob, steps: int) -> dict[str, Any]:
    """The arguments of any of TRL's trainers.

    Raises:
        ConfigurationError: the training cannot be shared by the launched processes.
        ModelError: the weights are float16, which cannot be trained without a float32 copy.
    """
    _check_launch(model, config)
    if model.dtype == torch.float16:
        raise ModelError("the small model is in float16, which cannot be tuned: set small.dtype to float32 or bfloat16")
    return {
        "output_dir": str(job.checkpoints.folder),
        "max_length": None,  # rows have been cut before
        "max_steps": steps,
        "per_device_train_batch_size": math.ceil(config.batch_size / launched().count),
        "per_device_eval_batch_size": math.ceil(config.batch_size / launched().count),
        "gradient_accumulation_steps": config.gradient_accumulation,
        "gradient_checkpointing": False,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "warmup_steps": config.warmup,  # below 1: a fraction of all steps
        "optim": config.optimizer,
        "lr_scheduler_type": config.schedule,
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        "eval_strategy": "steps",
        "eval_steps": steps,  # at the end; a callback adds the others
        "save_strategy": "best",  # and wherever `Checkpoints` asks, which deletes those no longer needed
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "bf16": model.dtype == torch.bfloat16,
        "use_cpu": model.device.type == "cpu",
        "dataloader_pin_memory": model.device.type != "cpu",
        "seed": job.seed,
        "disable_tqdm": True,
    }


def use_one_device(arguments: TrainingArguments) -> None:
    """Train on the first GPU where this process sees several, in the precision of the configuration.

    `Trainer` would put a whole batch on each of them (`DataParallel`), and so train with a larger batch.

    Raises:
        ConfigurationError: the launch asks for another precision, or for a compiled model.
    """
    own = "bf16" if arguments.bf16 else "no"
    if arguments.mixed_precision not in (own, "no"):
        raise ConfigurationError(
            f"the launch asks for mixed precision {arguments.mixed_precision}, but the model's dtype alone says how it "
            "is trained: leave out mixed_precision of accelerate's configuration, or set small.dtype=bfloat16 for bf16"
        )
    if (backend := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")).lower() != "no":
        raise ConfigurationError(f"the launch asks for dynamo_backend {backend}: leave it out, no model is compiled")
    if arguments.n_gpu > 1:
        _log.info("training uses the first of %d GPUs; `accelerate launch -m trimtab tune` uses all", arguments.n_gpu)
        arguments._n_gpu = 1


def _check_launch(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Raise ConfigurationError where the processes would silently do something else than the launch asks for."""
    count, kind = launched().count, sharding()
    if kind is not None and model.device.type == "cpu":
        raise ConfigurationError(
            f"the launch asks for {kind}, which divides a model among GPUs, and there is none: accelerate would "
            "silently run DDP on the CPU; launch with distributed_type MULTI_GPU"
        )
    if config.batch_size < count:
        raise ConfigurationError(
            f"tune.batch_size is {config.batch_size} and {count} processes share each batch: give at least {count}, or "
            "launch fewer"
        )
