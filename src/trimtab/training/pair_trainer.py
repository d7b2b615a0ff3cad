"""TRL's DPOTrainer on rows of ids, with a reference that is computed once and exactly.

What differs from TRL: rows are taken as they are (TRL encodes text and always appends an end token), batches keep
their rows, checkpoints hold all that a resumed training needs to end the same, and progress is told to a function.

    >>> trainer = PairTrainer(model, tokenizer, train, validation, config, Saving(folder), 0, print)  # doctest: +SKIP
"""

import json
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
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import disable_dropout_in_model

from trimtab.durable import write_text
from trimtab.experiment import TuneConfig
from trimtab.models.head import plain_head
from trimtab.models.trunk import untrained_layers
from trimtab.training.adapter import lora_config
from trimtab.training.checkpoints import Checkpoints, Saving
from trimtab.training.pair_arguments import trainer_arguments, training_steps
from trimtab.training.pair_forward import PairForward
from trimtab.training.pair_tokens import BatchOrder, PairTokens

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


class _Carried(TrainerCallback):
    """Has a resumed trainer take up what transformers and TRL leave out of their checkpoints, and an ended one forget
    what only its passes needed."""

    def __init__(self, trainer: "PairTrainer") -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step:
            self._trainer.take_up(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.forget()


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
        saving: Saving,
        seed: int,
        advance: Callable[[int, int], None],
    ) -> None:
        steps = training_steps(len(train), config)
        evaluations = 1 + min(config.evaluations, steps)
        batches = math.ceil(len(train) / config.batch_size) + steps * config.gradient_accumulation
        # Set before DPOTrainer's constructor, which runs the reference pass.
        self._advance, self._done = advance, 0
        self._rows: dict[str, list[int]] = {"train": [], "eval": []}
        self._forward: PairForward | None = None
        self._folder = saving.folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._total = batches + evaluations * math.ceil(len(validation) / config.batch_size)
        # Here rather than by TRL, which would switch off the adapter's dropout too. The adapter adds exactly nothing
        # before the first step, with dropout or without.
        disable_dropout_in_model(model)
        super().__init__(
            model=model,
            args=trainer_arguments(model, config, saving.folder, seed, steps),
            data_collator=DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
            train_dataset=_table(train),
            eval_dataset=_table(validation),
            processing_class=tokenizer,
            callbacks=[EvenEvaluations(config.evaluations), _Carried(self), Checkpoints(saving)],
            peft_config=lora_config(model, config.lora) if config.lora is not None else None,
        )
        self.remove_callback(PrinterCallback)

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: PreTrainedTokenizerBase, args: DPOConfig, dataset_name: str
    ) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add the reference's log-probabilities, computed in the batches that training and evaluation use.

        They are kept beside the checkpoints, so that a killed training does not compute them twice.
        """
        self._install_forward()
        kept = self._folder / f"reference-{name}.json"
        if kept.exists():
            self._done += math.ceil(len(dataset) / batch_size)
            chosen, rejected = json.loads(kept.read_text(encoding="utf-8"))
        else:
            chosen, rejected = self._reference(dataset, batch_size)
            write_text(kept, [json.dumps([chosen, rejected])])
        return dataset.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)

    def _reference(self, dataset: Dataset, batch_size: int) -> tuple[list[float], list[float]]:
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator))
        chosen, rejected = [], []
        for batch in loader:
            logps = self.compute_ref_log_probs(self.model, batch)
            gathered = self.accelerator.gather_for_metrics(logps)
            chosen.append(gathered[0].float().cpu())
            rejected.append(gathered[1].float().cpu())
            self._tick()
        return torch.cat(chosen).tolist(), torch.cat(rejected).tolist()

    def _install_forward(self) -> None:
        """Put `PairForward` in the place of TRL's fused head, where the logits are the head's and nothing else."""
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        if self._forward is None and plain_head(model) is not None:
            self._forward = PairForward(model, untrained_layers(model))
            self._forward.install()

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

    def _determine_best_metric(self, metrics: dict[str, float], trial: None) -> bool:
        """Whether to save after an evaluation: also where `Checkpoints` asked for it, which would be forgotten."""
        asked = self.control.should_save
        return super()._determine_best_metric(metrics, trial) or asked

    def _save_checkpoint(self, model: torch.nn.Module, trial: None) -> None:
        super()._save_checkpoint(model, trial)
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
        """Give back what the forward pass has kept: models live on until Python finds the trainer's circles."""
        if self._forward is not None:
            self._forward.forget()

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Checkpoints live only as long as training, and need no card."""


def _table(rows: Sequence[PairTokens]) -> Dataset:
    return Dataset.from_list([asdict(row) for row in rows])
