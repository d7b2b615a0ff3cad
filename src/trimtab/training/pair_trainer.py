"""TRL's DPOTrainer on rows of ids, with a reference that is computed once and exactly.

What differs from TRL: rows are taken as they are, batches keep their rows, the loss is any entry of `LOSSES`, and
several processes share each batch exactly (see `data_parallel`).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from trimtab.config.training import TrainingConfig, TuneConfig
from trimtab.models.lm_head import head_of
from trimtab.models.shared_layers import untrained_layers
from trimtab.store.distributed import decided_by_main, launched, sharding
from trimtab.store.files import write_text
from trimtab.training.data_parallel import BatchCounts, BatchShare, SingleProcess, with_idle_row
from trimtab.training.job import TrainingJob
from trimtab.training.losses import LOSSES
from trimtab.training.pair_forward import PairForward
from trimtab.training.resumable_trainer import Batch, ResumableTrainer
from trimtab.training.tokens import PairTokens
from trimtab.training.trackers import PROJECT, begun_by_the_trainer
from trimtab.training.trl_arguments import shared_arguments, training_steps, use_one_device


def pair_arguments(model: PreTrainedModel, config: TuneConfig, job: TrainingJob, steps: int) -> DPOConfig:
    """TRL's arguments.

    Raises:
        ConfigurationError: the launch asks for what the processes cannot do.
        ModelError: the weights are float16, which cannot be trained without a float32 copy.
    """
    likelihood = {"sft": config.sft_weight} if LOSSES[config.loss].with_likelihood else {}
    arguments = DPOConfig(
        **shared_arguments(model, config, job, steps),
        loss_type=[config.loss, *likelihood],
        loss_weights=[1.0, *likelihood.values()],
        beta=config.beta,
        disable_dropout=False,  # done by ResumableTrainer
        precompute_ref_log_probs=True,
        report_to=begun_by_the_trainer(config.trackers) if launched().main else "none",
        project=PROJECT,
    )
    use_one_device(arguments)
    return arguments


class PairTrainer(ResumableTrainer, DPOTrainer):
    """Trains on rows of `PairTokens`; each run of `batch_size` training rows is a batch, which processes share.

    The reference is the model as it is given: computed with the adapter off, or before the first step where all
    weights are trained, so that no second model is ever held.
    """

    part, heldout = "tune", "validation"
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
        job: TrainingJob,
    ) -> None:
        # Set before DPOTrainer's constructor, which runs the reference pass.
        self._losses: list[float] = []  # of whole batches that several processes shared
        self._forward: PairForward | None = None
        super().__init__(
            model,
            tokenizer,
            (_table(train), _table(validation)),
            pair_arguments(model, config, job, training_steps(len(train), config)),
            config,
            job,
            DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
        )
        # the first term, the loss of the pairs, is computed here; the others are TRL's
        self._loss = LOSSES[config.loss]
        self.loss_types, self.loss_weights = self.loss_types[1:], self.loss_weights[1:]

    def _batches(self, tables: tuple[Dataset, Dataset], config: TrainingConfig, steps: int) -> int:
        """The number of batches in all, with those of the reference."""
        reference = sum(math.ceil(len(table) / config.batch_size) for table in tables)
        return reference + super()._batches(tables, config, steps)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add the reference's log-probabilities, computed in the batches that training and evaluation use.

        They are kept beside the checkpoints, so that a killed training does not compute them twice.
        """
        self._install_forward()
        kept = self._folder / f"reference-{name}.json"
        logps = decided_by_main(lambda: json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None)
        if logps is not None:
            self._done += math.ceil(len(dataset) / self._batch_size)
        else:
            logps = self._reference(dataset)
            if launched().main:
                write_text(kept, [json.dumps(logps)])
        return dataset.add_column("ref_chosen_logps", logps[0]).add_column("ref_rejected_logps", logps[1])

    def _reference(self, dataset: Dataset) -> tuple[list[float], list[float]]:
        """The reference's log-probabilities of the chosen and the rejected responses, in nats, by row."""
        by_share: list[tuple[int, float, float]] = []
        for rows, batch in zip(self._shares(dataset), self._loader(dataset), strict=True):
            chosen, rejected = self.compute_ref_log_probs(self.model, batch)
            by_share += zip(rows, chosen.float().tolist(), rejected.float().tolist(), strict=True)
            self._tick()
        by_row = {row: logps for row, *logps in gather_object(by_share)}
        chosen, rejected = zip(*(by_row[row] for row in range(len(dataset))), strict=True)
        return list(chosen), list(rejected)

    def _shares(self, dataset: Dataset, order: Iterable[int] | None = None) -> BatchShare:
        """This process's share of each batch, in the dataset's order or the given one."""
        return BatchShare(range(len(dataset)) if order is None else order, self._batch_size, launched(), len(dataset))

    def _loader(self, dataset: Dataset, order: Iterable[int] | None = None) -> DataLoader:
        rows = dataset if launched().alone else with_idle_row(dataset)
        loader = DataLoader(rows, batch_sampler=self._shares(dataset, order), collate_fn=self.data_collator)
        # one process, so that accelerate does not share it out a second time
        return prepare_data_loader(loader, self.accelerator.device, 1, 0, put_on_device=True)

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, self._get_train_sampler())

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        return self._loader(self.eval_dataset)

    def _install_forward(self) -> None:
        """Put `PairForward` in the place of TRL's fused head, where the model's head is one that it knows.

        TRL's own stays for a mixture of experts, whose routers' loss it adds.
        """
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        routed = "output_router_logits" in model.config.get_text_config().to_dict()
        if self._forward is None and not routed and (head := head_of(model)) is not None:
            # kept outputs differ between processes, and sharded layers must be run by all processes together
            frozen = untrained_layers(model) if sharding() is None else 0
            self._forward = PairForward(model, frozen, head.scale, head.cap)
            self._forward.install()

    def compute_loss(
        self, model: torch.nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss of one batch of training or validation pairs.

        Of several processes, each gives the loss of the whole batch with the gradient of its part, such that the mean
        of the gradients over the processes is the batch's.
        """
        if launched().alone:
            loss = self._loss_of(model, inputs)
            self._passed(len(inputs["input_ids"]) // 2)
            return loss
        counts = BatchCounts(inputs, self.accelerator)
        loss, whole = self._part_of_loss(model, inputs, counts)
        if not self.model.training:
            self._losses.append(whole)
        self._passed(counts.total["pairs"])
        return loss.new_tensor(whole) + (loss - loss.detach())

    def _loss_of(self, model: torch.nn.Module, inputs: Batch, weight: float = 1.0) -> torch.Tensor:
        """The mean loss of the pairs times `weight`, plus TRL's other terms. TRL measures the batch for the log."""
        passed: list[torch.Tensor] = []  # log-probabilities of tokens, chosen responses before rejected ones
        with model.register_forward_hook(lambda module, arguments, output: passed.append(output.log_probs)):
            others = super().compute_loss(model, inputs)
        chosen, rejected = passed[0].sum(dim=1).chunk(2)
        ratios = chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]
        return self._loss.of_pairs(*ratios, self.beta).mean() * weight + others

    def _part_of_loss(self, model: torch.nn.Module, inputs: Batch, counts: BatchCounts) -> tuple[torch.Tensor, float]:
        """This process's part of the loss, and the whole: TRL computes and measures this process's rows as if there
        were no others; then the figures of all processes are put together."""
        mode, tokens = "train" if self.model.training else "eval", self._total_train_tokens
        accelerator, terms = self.accelerator, dict(zip(self.loss_types, self.loss_weights, strict=True))
        # a process without a pair leaves out the likelihood: the mean over none of its tokens would be NaN
        local = {term: counts.weighed(weight, "chosen") for term, weight in terms.items() if counts.local["pairs"]}
        self.accelerator, self.loss_types, self.loss_weights = (
            SingleProcess(accelerator.device),
            list(local),
            list(local.values()),
        )
        try:
            loss = self._loss_of(model, inputs, counts.weighed(1.0, "pairs"))
        finally:
            self.accelerator, self.loss_types, self.loss_weights = accelerator, list(terms), list(terms.values())
        metrics = self._metrics[mode]
        figures = {name: values[-1] for name, values in metrics.items() if name != "num_tokens"}
        whole, figures = counts.over_processes(float(loss.detach()), figures)
        for name, figure in figures.items():
            metrics[name][-1] = figure
        if mode == "train":
            self._total_train_tokens = tokens + counts.total["attended"]
            metrics["num_tokens"] = [self._total_train_tokens]
        return loss, whole

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """TRL's loop, with the mean loss of batches that several processes share."""
        self._losses.clear()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if not launched().alone:
            losses, rows = np.array(self._losses), np.array(self._rows["eval"])
            counted = np.isfinite(losses) if np.isfinite(losses).any() else np.full(len(losses), True)
            output.metrics[f"{metric_key_prefix}_loss"] = float(np.average(losses[counted], weights=rows[counted]))
        return output

    def forget(self) -> None:
        """Free the outputs of lower layers that the forward pass has kept."""
        if self._forward is not None:
            self._forward.forget()


def _table(rows: Sequence[PairTokens]) -> Dataset:
    return Dataset.from_list([asdict(row) for row in rows])
