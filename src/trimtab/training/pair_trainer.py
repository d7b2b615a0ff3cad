"""TRL's DPOTrainer on rows of ids, with a reference that is computed once and exactly.

What differs from TRL: rows are taken as they are (TRL encodes text and always appends an end token), batches keep
their rows, checkpoints hold all that a resumed training needs to end the same, several processes share each batch
exactly (see `batch_shares`), and progress is told to a function.

    >>> trainer = PairTrainer(model, tokenizer, train, validation, config, Saving(folder), 0, print)  # doctest: +SKIP
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.trainer_utils import EvalLoopOutput
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import disable_dropout_in_model

from trimtab.config.training import TuneConfig
from trimtab.models.lm_head import head_of
from trimtab.models.shared_layers import untrained_layers
from trimtab.store.distributed import decided_by_main, launched, sharding
from trimtab.store.files import write_text
from trimtab.training.adapter import lora_config
from trimtab.training.batches import BatchOrder
from trimtab.training.checkpoints import Checkpoints, Saving
from trimtab.training.data_parallel import Alone, BatchCounts, BatchShare, with_idle_row
from trimtab.training.losses import LOSSES
from trimtab.training.pair_arguments import trainer_arguments
from trimtab.training.pair_forward import PairForward
from trimtab.training.pair_tokens import PairTokens
from trimtab.training.resumable_trainer import Carried, EvenEvaluations, ResumableTrainer
from trimtab.training.trl_arguments import training_steps


class PairTrainer(ResumableTrainer, DPOTrainer):
    """Trains on rows of `PairTokens`; each run of `batch_size` training rows is a batch, which processes share.

    The reference is the model as it is given: computed with the adapter off, or before the first step where all
    weights are trained, so that no second model is ever held.
    """

    accelerator: Any
    loss_types: list[str]
    loss_weights: list[float]

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
        self._losses: list[float] = []  # of whole batches that several processes shared
        self._forward: PairForward | None = None
        self._batch_size = config.batch_size
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
        # the loss of the pairs is an entry of LOSSES; what else there is of terms is TRL's
        self._loss = LOSSES[config.loss]
        self.loss_types, self.loss_weights = self.loss_types[1:], self.loss_weights[1:]

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
        found = decided_by_main(lambda: json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None)
        if found is not None:
            self._done += math.ceil(len(dataset) / batch_size)
        else:
            found = self._reference(dataset)
            if launched().main:
                write_text(kept, [json.dumps(found)])
        return dataset.add_column("ref_chosen_logps", found[0]).add_column("ref_rejected_logps", found[1])

    def _reference(self, dataset: Dataset) -> tuple[list[float], list[float]]:
        """Of the chosen and of the rejected responses, in nats, by row."""
        found: list[tuple[int, float, float]] = []
        for rows, batch in zip(self._shares(dataset, range(len(dataset))), self._loader(dataset), strict=True):
            chosen, rejected = self.compute_ref_log_probs(self.model, batch)
            found += zip(rows, chosen.float().tolist(), rejected.float().tolist(), strict=True)
            self._tick()
        by_row = {row: logps for row, *logps in gather_object(found)}
        chosen, rejected = zip(*(by_row[row] for row in range(len(dataset))), strict=True)
        return list(chosen), list(rejected)

    def _shares(self, dataset: Dataset, order: Iterable[int]) -> BatchShare:
        return BatchShare(order, self._batch_size, launched(), idle=len(dataset))

    def _loader(self, dataset: Dataset, order: Iterable[int] | None = None) -> DataLoader:
        """This process's share of each batch, in the dataset's order or the given one."""
        shares = self._shares(dataset, range(len(dataset)) if order is None else order)
        rows = dataset if launched().alone else with_idle_row(dataset)
        loader = DataLoader(rows, batch_sampler=shares, collate_fn=self.data_collator)
        # one process, so that accelerate does not share it out a second time
        return prepare_data_loader(loader, self.accelerator.device, 1, 0, put_on_device=True)

    def _get_dataloader(
        self,
        dataset: Dataset,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Dataset], Sampler[int]] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader:
        order = BatchOrder(len(dataset), self._batch_size, self.args.seed) if is_training else None
        return self._loader(dataset, order)

    def _install_forward(self) -> None:
        """Put `PairForward` in the place of TRL's fused head, where the logits are a head's that it knows.

        TRL's own stays where a mixture of experts has a loss of its routers, which it adds.
        """
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        routed = "output_router_logits" in model.config.get_text_config().to_dict()
        if self._forward is None and not routed and (head := head_of(model)) is not None:
            # what is kept differs between processes, which must run alike the layers that are gathered as they run
            frozen = untrained_layers(model) if sharding() is None else 0
            self._forward = PairForward(model, frozen, head.scale, head.cap)
            self._forward.install()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """DPOTrainer's loss of one batch, of training or of validation pairs.

        Of several processes, each gives its part: the mean over them is the loss of the batch, and so are its
        gradients.
        """
        if launched().alone:
            loss = self._loss_of(model, inputs)
            self._passed(len(inputs["input_ids"]) // 2)
        else:
            counts = BatchCounts(inputs, self.accelerator)
            loss = self._part_of_loss(model, inputs, counts)
            self._passed(counts.total["pairs"])
        return loss

    def _loss_of(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], weight: float = 1.0) -> torch.Tensor:
        """The mean loss of the pairs, times `weight`, and TRL's other terms; TRL measures the batch for the log."""
        passed: list[torch.Tensor] = []  # log-probabilities of tokens, chosen responses before rejected ones
        with model.register_forward_hook(lambda module, arguments, output: passed.append(output.log_probs)):
            others = super().compute_loss(model, inputs)
        chosen, rejected = passed[0].sum(dim=1).chunk(2)
        ratios = chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]
        return self._loss.of_pairs(*ratios, self.beta).mean() * weight + others

    def _part_of_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], counts: BatchCounts
    ) -> torch.Tensor:
        """TRL computes this process's rows as if there were no others; then the figures of all are put together."""
        mode, tokens = "train" if self.model.training else "eval", self._total_train_tokens
        accelerator, terms = self.accelerator, dict(zip(self.loss_types, self.loss_weights, strict=True))
        # a process without a pair leaves out the likelihood: the mean over none of its tokens would be NaN
        own = {term: counts.weighed(weight, "chosen") for term, weight in terms.items() if counts.own["pairs"]}
        self.accelerator, self.loss_types, self.loss_weights = Alone(accelerator.device), list(own), list(own.values())
        try:
            loss = self._loss_of(model, inputs, counts.weighed(1.0, "pairs"))
        finally:
            self.accelerator, self.loss_types, self.loss_weights = accelerator, list(terms), list(terms.values())
        metrics = self._metrics[mode]
        figures = {name: values[-1] for name, values in metrics.items() if name != "num_tokens"}
        mean, figures = counts.over_processes(float(loss.detach()), figures)
        for name, figure in figures.items():
            metrics[name][-1] = figure
        if mode == "train":
            self._total_train_tokens = tokens + counts.total["attended"]
            metrics["num_tokens"] = [self._total_train_tokens]
        self._losses.append(mean)
        return loss

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The trainer's; what it logs is the loss of the whole batch, also where this process had a part of it."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if launched().alone:
            return loss
        return loss.new_tensor(self._losses.pop() / self.current_gradient_accumulation_steps)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The trainer's, with the loss of the batches that several processes shared."""
        self._losses.clear()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if not launched().alone:
            losses, rows = np.array(self._losses), np.array(self._rows["eval"])
            known = np.isfinite(losses) if np.isfinite(losses).any() else np.full(len(losses), True)
            loss = float(np.average(losses[known], weights=rows[known]))
            output.metrics[f"{metric_key_prefix}_loss"] = loss
        return output

    def forget(self) -> None:
        """Give back what the forward pass has kept."""
        if self._forward is not None:
            self._forward.forget()


def _table(rows: Sequence[PairTokens]) -> Dataset:
    return Dataset.from_list([asdict(row) for row in rows])
