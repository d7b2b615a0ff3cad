"""TRL's DPOTrainer on rows of ids, with a reference that is computed once and exactly.

What differs from TRL: rows are taken as they are (TRL encodes text and always appends an end token), batches keep
their rows, nothing is cached on disk, and progress is told to a function. The losses are TRL's own.

    >>> LOSSES["hinge_sft"](TuneConfig(loss="hinge_sft", sft_weight=0.1))
    (['hinge', 'sft'], [1.0, 0.1])
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import get_available_reporting_integrations
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import disable_dropout_in_model

from trimtab.errors import ConfigurationError, ModelError
from trimtab.experiment import TuneConfig
from trimtab.models.head import plain_head
from trimtab.models.trunk import untrained_layers
from trimtab.training.adapter import lora_config
from trimtab.training.pair_forward import PairForward
from trimtab.training.pair_tokens import BatchOrder, PairTokens

# Each gives TRL's names of the terms and their weights. With margin = beta * ((log p(chosen) - log p(rejected)) - the
# same of the reference): sigmoid = -log sigmoid(margin), hinge = max(0, 1 - margin), sft = -log p(chosen) a token.
LOSSES: dict[str, Callable[[TuneConfig], tuple[list[str], list[float]]]] = {
    "sigmoid": lambda config: (["sigmoid"], [1.0]),
    "hinge": lambda config: (["hinge"], [1.0]),
    "hinge_sft": lambda config: (["hinge", "sft"], [1.0, config.sft_weight]),
}


class EvenEvaluations(TrainerCallback):
    """Evaluates `count` times, evenly spread, the last time at the end; fewer times where there are fewer steps."""

    def __init__(self, count: int) -> None:
        self._count = count

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        places = {round(state.max_steps * part / self._count) for part in range(1, self._count + 1)}
        if state.global_step in places:
            control.should_evaluate = True


class PairTrainer(DPOTrainer):
    """Trains on rows of `PairTokens`; each run of `batch_size` training rows is a batch.

    The reference is the model as it is given: computed with the adapter off, or before the first step where all
    weights are trained, so that no second model is ever held.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[PairTokens],
        validation: Sequence[PairTokens],
        config: TuneConfig,
        folder: Path,
        seed: int,
        advance: Callable[[int, int], None],
    ) -> None:
        steps = training_steps(len(train), config)
        evaluations = 1 + min(config.evaluations, steps)
        batches = math.ceil(len(train) / config.batch_size) + steps * config.gradient_accumulation
        # Set before DPOTrainer's constructor, which runs the reference pass.
        self._advance, self._done = advance, 0
        self._rows: dict[str, list[int]] = {"train": [], "eval": []}
        self._total = batches + evaluations * math.ceil(len(validation) / config.batch_size)
        # Here rather than by TRL, which would switch off the adapter's dropout too. The adapter adds exactly nothing
        # before the first step, with dropout or without.
        disable_dropout_in_model(model)
        super().__init__(
            model=model,
            args=_arguments(model, config, folder, seed, steps),
            data_collator=DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
            train_dataset=_table(train),
            eval_dataset=_table(validation),
            processing_class=tokenizer,
            callbacks=[EvenEvaluations(config.evaluations)],
            peft_config=lora_config(model, config.lora) if config.lora is not None else None,
        )
        self.remove_callback(PrinterCallback)

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: PreTrainedTokenizerBase, args: DPOConfig, dataset_name: str
    ) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add the reference's log-probabilities, computed in the batches that training and evaluation use."""
        self._install_forward()
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator))
        chosen, rejected = [], []
        for batch in loader:
            logps = self.compute_ref_log_probs(self.model, batch)
            gathered = self.accelerator.gather_for_metrics(logps)
            chosen.append(gathered[0].float().cpu())
            rejected.append(gathered[1].float().cpu())
            self._tick()
        dataset = dataset.add_column("ref_chosen_logps", torch.cat(chosen).tolist())
        return dataset.add_column("ref_rejected_logps", torch.cat(rejected).tolist())

    def _install_forward(self) -> None:
        """Put `PairForward` in the place of TRL's fused head, where the logits are the head's and nothing else."""
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        if not isinstance(model.forward, PairForward) and plain_head(model) is not None:
            PairForward(model, untrained_layers(model)).install()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """DPOTrainer's loss of one batch, of training or of validation pairs."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._rows["train" if self.model.training else "eval"].append(len(inputs["input_ids"]) // 2)
        self._tick()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """DPOTrainer's log with batches weighted by their rows, so that a last, smaller one counts for less."""
        mode = "train" if self.model.training else "eval"
        for name, values in self._metrics[mode].items():
            if len(values) == len(self._rows[mode]):
                self._metrics[mode][name] = [float(np.average(values, weights=self._rows[mode]))]
        self._rows[mode].clear()
        super().log(logs, start_time)

    def _tick(self) -> None:
        # Where an epoch ends inside an accumulation, fewer batches come than were counted, never more.
        self._done = min(self._done + 1, self._total)
        self._advance(self._done, self._total)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return BatchOrder(len(rows), self.args.per_device_train_batch_size, self.args.seed)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Checkpoints live only as long as training, and need no card."""


def training_steps(rows: int, config: TuneConfig) -> int:
    """Optimizer steps of the whole training, as the transformers trainer counts them."""
    updates = math.ceil(math.ceil(rows / config.batch_size) / config.gradient_accumulation)
    return max(1, math.ceil(config.epochs * updates))


def _table(rows: Sequence[PairTokens]) -> Dataset:
    return Dataset.from_list([asdict(row) for row in rows])


def _arguments(model: PreTrainedModel, config: TuneConfig, folder: Path, seed: int, steps: int) -> DPOConfig:
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
        save_strategy="best",
        save_total_limit=1,
        save_only_model=True,
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
