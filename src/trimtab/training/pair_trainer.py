"""TRL's DPOTrainer on rows of ids, with a reference that is computed once and exactly.

What differs from TRL: rows are taken as they are (TRL encodes text and always appends an end token), batches keep
their rows, checkpoints hold all that a resumed training needs to end the same, and progress is told to a function.

    >>> trainer = PairTrainer(model, tokenizer, train, validation, config, Saving(folder), 0, print)  # doctest: +SKIP
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import disable_dropout_in_model

from trimtab.durable import write_text
from trimtab.experiment import TuneConfig
from trimtab.models.head import plain_head
from trimtab.models.trunk import untrained_layers
from trimtab.training.adapter import lora_config
from trimtab.training.arguments import training_steps
from trimtab.training.checkpoints import Checkpoints, Saving
from trimtab.training.pair_arguments import trainer_arguments
from trimtab.training.pair_forward import PairForward
from trimtab.training.pair_tokens import PairTokens
from trimtab.training.resumable import Carried, EvenEvaluations, ResumableTrainer


class PairTrainer(ResumableTrainer, DPOTrainer):
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
        self._forward: PairForward | None = None
        self._begin(saving.folder, batches + evaluations * math.ceil(len(validation) / config.batch_size), advance)
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
            callbacks=[EvenEvaluations(config.evaluations), Carried(self), Checkpoints(saving)],
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
        self._passed(len(inputs["input_ids"]) // 2)
        return loss

    def forget(self) -> None:
        """Give back what the forward pass has kept: models live on until Python finds the trainer's circles."""
        if self._forward is not None:
            self._forward.forget()


def _table(rows: Sequence[PairTokens]) -> Dataset:
    return Dataset.from_list([asdict(row) for row in rows])
