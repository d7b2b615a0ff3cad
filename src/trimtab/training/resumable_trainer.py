"""What the trainers of the small model share beyond TRL: progress, even evaluations, and resuming to the same bytes."""

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.utils import disable_dropout_in_model

from trimtab.config.training import TrainingConfig
from trimtab.store.distributed import launched
from trimtab.store.files import write_text
from trimtab.training.adapter import leave_casts_to_autocast, lora_config
from trimtab.training.batches import BatchOrder
from trimtab.training.checkpoints import Checkpoints, checkpoint_at
from trimtab.training.job import TrainingJob

Batch = dict[str, torch.Tensor]
SUMS_FILE = "sums.json"
"""A checkpoint's file of the running sums that the log is made of."""


class ResumableTrainer(Trainer):
    """Comes before one of TRL's trainers among the bases of a class: `class PairTrainer(ResumableTrainer, DPOTrainer)`.

    Rows are used unchanged. For messages: `part` is the part of the configuration, `heldout` the evaluation data.
    """

    part: ClassVar[str]
    heldout: ClassVar[str]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tables: tuple[Dataset, Dataset],
        arguments: TrainingArguments,
        config: TrainingConfig,
        job: TrainingJob,
        collator: Any = None,
    ) -> None:
        """`tables` are of training and of held-out rows; each run of `config.batch_size` training rows is a batch."""
        self._folder, self._advance = job.checkpoints.folder, job.advance
        self._batch_size = config.batch_size
        self._folder.mkdir(parents=True, exist_ok=True)
        self._done, self._total = 0, self._batches(tables, config, arguments.max_steps)
        self._rows: dict[str, list[int]] = {"train": [], "eval": []}
        # Here rather than by TRL, which would switch off the adapter's dropout too. The adapter adds exactly nothing
        # before the first step, with dropout or without.
        disable_dropout_in_model(model)
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=tables[0],
            eval_dataset=tables[1],
            processing_class=tokenizer,
            callbacks=[_Callback(self, config.evaluations), Checkpoints(job.checkpoints)],
            peft_config=None if config.lora is None else lora_config(model, config.lora, self.part),
        )
        self.remove_callback(PrinterCallback)

    def _batches(self, tables: tuple[Dataset, Dataset], config: TrainingConfig, steps: int) -> int:
        """How many batches are computed in all, in training and in evaluations."""
        evaluations = min(config.evaluations, steps)
        return steps * config.gradient_accumulation + evaluations * math.ceil(len(tables[1]) / config.batch_size)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """TRL would encode texts, without a start token and with an end token also after a text that was cut."""
        return dataset

    def _passed(self, rows: int) -> None:
        """Report progress after a batch of this number of rows, in training or in an evaluation."""
        self._rows["train" if self.model.training else "eval"].append(rows)
        self._tick()

    def _tick(self) -> None:
        # Where an epoch ends inside an accumulation, fewer batches come than were counted, never more.
        self._done = min(self._done + 1, self._total)
        self._advance(self._done, self._total)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        return BatchOrder(len(self.train_dataset), self._batch_size, self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with batches weighted by their rows, so that a last, smaller one counts for less."""
        mode = "train" if self.model.training else "eval"
        for name, values in self._metrics[mode].items():
            if len(values) == len(self._rows[mode]):
                self._metrics[mode][name] = [float(np.average(values, weights=self._rows[mode]))]
        self._rows[mode].clear()
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial: None) -> bool:
        """Whether to save after an evaluation: also where `Checkpoints` asked for it, which would be forgotten."""
        asked = self.control.should_save
        return super()._determine_best_metric(metrics, trial) or asked

    def _save_checkpoint(self, model: torch.nn.Module, trial: None) -> None:
        super()._save_checkpoint(model, trial)
        if not launched().main:
            return
        sums = {
            "loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "logged": self._globalstep_last_logged,
            "metrics": self._metrics["train"],
            "rows": self._rows["train"],
            "tokens": self._total_train_tokens,
            "done": self._done,
        }
        write_text(checkpoint_at(self._folder, self.state.global_step) / SUMS_FILE, [json.dumps(sums)])

    def restore_sums(self, checkpoint: Path) -> None:
        """Restore the running sums of the log, which transformers and TRL leave out of their checkpoints."""
        sums = json.loads((checkpoint / SUMS_FILE).read_text(encoding="utf-8"))
        self._tr_loss = torch.tensor(sums["loss"], device=self.args.device)
        self._total_loss_scalar = sums["total_loss"]
        self._globalstep_last_logged = sums["logged"]
        self._initial_global_step = 0  # the loss is reported over the whole training, not since the resume
        self._metrics["train"].update(sums["metrics"])
        self._rows["train"] = sums["rows"]
        self._total_train_tokens = sums["tokens"]
        self._done = sums["done"]

    def forget(self) -> None:
        """Free what only the passes needed, once training has ended."""

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: Any = None
    ) -> None:
        """Checkpoints live only as long as training, and need no card."""


class _Callback(TrainerCallback):
    """Evaluates `evaluations` times, evenly spread, the last time at the end; fewer times where there are fewer steps.
    Restores the log's sums on resume, and frees what the passes kept at the end."""

    def __init__(self, trainer: ResumableTrainer, evaluations: int) -> None:
        self._trainer, self._evaluations = trainer, evaluations

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not launched().main:  # dropout of its own: all processes have drawn the same adapter from the same seed
            torch.manual_seed(args.seed + launched().index)
        if args.bf16:
            leave_casts_to_autocast(self._trainer.model)
        if state.global_step:
            self._trainer.restore_sums(checkpoint_at(Path(args.output_dir), state.global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        steps = {round(state.max_steps * part / self._evaluations) for part in range(1, self._evaluations + 1)}
        if state.global_step in steps:
            control.should_evaluate = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.forget()
