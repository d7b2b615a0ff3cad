"""What the trainings of the small model share beyond TRL: their progress is told, and a killed one ends the same.

Mixed into a trainer of TRL, whose checkpoints leave out the running sums that its log is made of. Knows nothing of what
is trained.

    >>> class TextTrainer(ResumableTrainer, SFTTrainer): ...                            # doctest: +SKIP
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trimtab.store.distributed import launched
from trimtab.store.files import write_text
from trimtab.training.adapter import leave_casts_to_autocast
from trimtab.training.batches import BatchOrder

SUMS = "sums.json"
"""A checkpoint's file of the running sums that the log is made of."""


class EvenEvaluations(TrainerCallback):
    """Evaluates `count` times, evenly spread, the last time at the end; fewer times where there are fewer steps."""

    def __init__(self, count: int) -> None:
        self._count = count

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        places = {round(state.max_steps * part / self._count) for part in range(1, self._count + 1)}
        if state.global_step in places:
            control.should_evaluate = True


class Carried(TrainerCallback):
    """Has a resumed trainer take up what transformers and TRL leave out of their checkpoints, and an ended one forget
    what only its passes needed; and under autocast nobody else casts."""

    def __init__(self, trainer: "ResumableTrainer") -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not launched().main:  # dropout of its own: all processes have drawn the same adapter from the same seed
            torch.manual_seed(args.seed + launched().index)
        if args.bf16:
            leave_casts_to_autocast(self._trainer.model)
        if state.global_step:
            self._trainer.take_up(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.forget()


class ResumableTrainer(Trainer):
    """Stands before a trainer of TRL among the bases of a class; `_begin` comes before that trainer's constructor."""

    def _begin(self, folder: Path, total: int, advance: Callable[[int, int], None]) -> None:
        """Checkpoints will lie in `folder`; `advance(done, total)` is told of every batch that was computed."""
        self._folder, self._total, self._advance, self._done = folder, total, advance, 0
        self._rows: dict[str, list[int]] = {"train": [], "eval": []}
        folder.mkdir(parents=True, exist_ok=True)

    def _passed(self, rows: int) -> None:
        """A batch of so many rows has been computed, in training or in an evaluation."""
        self._rows["train" if self.model.training else "eval"].append(rows)
        self._tick()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return BatchOrder(len(rows), self.args.per_device_train_batch_size, self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with batches weighted by their rows, so that a last, smaller one counts for less."""
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
        write_text(self._folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}" / SUMS, [json.dumps(sums)])

    def take_up(self, checkpoint: Path) -> None:
        """Take up the sums that the next line of the log is made of where a checkpoint left them."""
        sums = json.loads((checkpoint / SUMS).read_text(encoding="utf-8"))
        self._tr_loss = torch.tensor(sums["loss"], device=self.args.device)
        self._total_loss_scalar = sums["total_loss"]
        self._globalstep_last_logged = sums["logged"]
        self._initial_global_step = 0  # the loss is reported over the whole training, not since the resume
        self._metrics["train"].update(sums["metrics"])
        self._rows["train"] = sums["rows"]
        self._total_train_tokens = sums["tokens"]
        self._done = sums["done"]

    def forget(self) -> None:
        """Give back what only the passes needed, once training has ended."""

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Checkpoints live only as long as training, and need no card."""
