"""TRL's SFTTrainer on rows of ids, with batches that keep their rows and checkpoints that a killed training ends from.

What differs from TRL: rows are taken as they are (TRL puts no start token before a text, and an end token also behind
one that was cut), and progress is told to a function.

    >>> trainer = TextTrainer(model, tokenizer, train, heldout, config, Saving(folder), 0, print)   # doctest: +SKIP
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer, pack_dataset
from trl.trainer.utils import disable_dropout_in_model

from trimtab.config.training import SftConfig
from trimtab.models.lm_head import head_of
from trimtab.training.adapter import lora_config
from trimtab.training.checkpoints import Checkpoints, Saving
from trimtab.training.pair_forward import PairForward
from trimtab.training.resumable_trainer import Carried, EvenEvaluations, ResumableTrainer
from trimtab.training.text_tokens import TextTokens
from trimtab.training.trl_arguments import shared_arguments, training_steps, use_one_device


class TextTrainer(ResumableTrainer, SFTTrainer):
    """Trains on rows of `TextTokens`; each run of `batch_size` training rows is a batch.

    With `config.packing`, TRL puts texts together into rows of `max_length` tokens first, in which none sees another.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[TextTokens],
        heldout: Sequence[TextTokens],
        config: SftConfig,
        saving: Saving,
        seed: int,
        advance: Callable[[int, int], None],
    ) -> None:
        tables = [_table(rows, config) for rows in (train, heldout)]
        steps = training_steps(len(tables[0]), config)
        evaluations = min(config.evaluations, steps)
        total = steps * config.gradient_accumulation + evaluations * math.ceil(len(tables[1]) / config.batch_size)
        self._begin(saving.folder, total, advance)
        disable_dropout_in_model(model)  # not the adapter's, which comes later
        arguments = SFTConfig(
            **shared_arguments(model, config, saving.folder, seed, steps), packing=config.packing, report_to="none"
        )
        use_one_device(arguments)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=tables[0],
            eval_dataset=tables[1],
            processing_class=tokenizer,
            callbacks=[EvenEvaluations(config.evaluations), Carried(self), Checkpoints(saving)],
            peft_config=lora_config(model, config.lora, "sft") if config.lora is not None else None,
        )
        self.remove_callback(PrinterCallback)
        plain = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        if not config.packing and (head := head_of(plain)) is not None:
            PairForward(plain, 0, head.scale, head.cap).install()

    def _prepare_dataset(
        self,
        dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        args: SFTConfig,
        packing: bool,
        formatting_func: None,
        dataset_name: str,
    ) -> Dataset:
        return dataset

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """SFTTrainer's loss of one batch, of training or of held-out texts."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._passed(len(inputs["input_ids"]))
        return loss


def _table(rows: Sequence[TextTokens], config: SftConfig) -> Dataset:
    table = Dataset.from_list([asdict(row) for row in rows])
    return pack_dataset(table, config.max_length) if config.packing else table
