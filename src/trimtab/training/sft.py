"""Supervised fine-tuning: texts and a small model in, an ordinary model folder out that writes such texts."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer, pack_dataset

from trimtab.config.training import SftConfig
from trimtab.errors import ConfigurationError, DataError
from trimtab.models.context import context_of
from trimtab.models.language_model import check_ids
from trimtab.models.lm_head import head_of
from trimtab.models.roles import vocabulary_of
from trimtab.training.batches import arrange
from trimtab.training.job import TrainingJob
from trimtab.training.pair_forward import PairForward
from trimtab.training.resumable_trainer import Batch, ResumableTrainer
from trimtab.training.saved_model import train_and_save
from trimtab.training.tokens import TextTokens, encode_texts
from trimtab.training.trl_arguments import shared_arguments, training_steps, use_one_device


def fine_tune(
    train: Sequence[str],
    heldout: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: SftConfig,
    job: TrainingJob,
    start_token: str | None = None,
) -> dict[str, Any]:
    """Train `model` on whole texts and keep the weights of the best evaluation on the held-out ones.

    Writes into the job's folder `model` (an ordinary transformers folder, an adapter merged into it), `adapter`
    where there is one, and `log.jsonl`, one line for each logged step; `loss` in nats a token. `model` is trained in
    place, on its device and in its dtype, and emptied at the end; bfloat16 weights are trained under autocast.
    Each text begins with the start token (`start_token`, or the tokenizer's) and, unless it is cut, ends with the end
    token. The same seed and number of threads give the same result.

    Returns:
        The summary: counts of texts, how the training went, and `eval_*` of the weights kept, those of `best_step`.

    Raises:
        DataError: there are no texts.
        ModelError: the model has no start token, cannot be trained as configured, or training diverged.
        ConfigurationError: more `top_layers` than there are, or a `max_length` beyond the model's context.
    """
    vocabulary, limit = vocabulary_of(model, tokenizer, start_token), context_of(model)
    if config.max_length > limit:
        raise ConfigurationError(
            f"sft.max_length is {config.max_length} and the small model's context {limit}: lower it to {limit}"
        )
    if not train or not heldout:
        raise DataError("there are no texts: fine-tuning needs training and held-out reviews")
    rows, others = (encode_texts(texts, vocabulary, config.max_length) for texts in (train, heldout))
    size = model.get_input_embeddings().weight.shape[0]
    check_ids("the small model", vocabulary, size, (row.input_ids for row in (*rows, *others)))
    rows, others = arrange(rows, config.batch_size, job.seed), sorted(others, key=lambda row: row.length)
    longest = config.max_length if config.packing else max(row.length for row in (*rows, *others))
    summary, _ = train_and_save(
        lambda padding: TextTrainer(model, padding, rows, others, config, job), model, vocabulary, longest, job
    )
    counts = {
        "reviews": len(train),
        "heldout": len(heldout),
        "cut_reviews": sum(row.input_ids[-1] != vocabulary.end_id for row in rows),
        "tokens": sum(row.length for row in rows),
    }
    return counts | summary


class TextTrainer(ResumableTrainer, SFTTrainer):
    """TRL's SFTTrainer on texts that are token ids already; every `batch_size` consecutive training rows are a batch.

    With `config.packing`, TRL first packs texts into rows of `max_length` tokens; no text attends to another.
    """

    part, heldout = "sft", "held-out"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[TextTokens],
        heldout: Sequence[TextTokens],
        config: SftConfig,
        job: TrainingJob,
    ) -> None:
        tables = _table(train, config), _table(heldout, config)
        steps = training_steps(len(tables[0]), config)
        arguments = SFTConfig(**shared_arguments(model, config, job, steps), packing=config.packing, report_to="none")
        use_one_device(arguments)
        super().__init__(model, tokenizer, tables, arguments, config, job)
        plain = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        if not config.packing and (head := head_of(plain)) is not None:
            # computes logits only where the loss needs them; packed rows use the model's own forward pass
            PairForward(plain, 0, head.scale, head.cap).install()

    def compute_loss(
        self, model: torch.nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """SFTTrainer's loss of one batch, of training or of held-out texts."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._passed(len(inputs["input_ids"]))
        return loss


def _table(rows: Sequence[TextTokens], config: SftConfig) -> Dataset:
    table = Dataset.from_list([asdict(row) for row in rows])
    return pack_dataset(table, config.max_length) if config.packing else table
