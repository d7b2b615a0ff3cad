"""Supervised fine-tuning: texts and a small model in, an ordinary model folder out that writes such texts.

`fine_tune` is the stage; rows are made in `text_tokens`, the trainer is in `text_trainer`.

    >>> summary = fine_tune(train, heldout, model, tokenizer, SftConfig(), Path("sft"), 0, print)   # doctest: +SKIP
    >>> summary["eval_loss"]                                                            # doctest: +SKIP
    3.41
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.training import SftConfig
from trimtab.errors import ConfigurationError, DataError
from trimtab.models.context import context_of
from trimtab.models.language_model import check_ids
from trimtab.models.roles import vocabulary_of
from trimtab.training.attention import attention_for
from trimtab.training.batches import arrange
from trimtab.training.checkpoints import Saving, resume_point
from trimtab.training.saved_model import able_to_pad, as_given, outcome_of, quietly, save_model, write_log
from trimtab.training.text_tokens import encode_texts
from trimtab.training.text_trainer import TextTrainer


def fine_tune(
    train: Sequence[str],
    heldout: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: SftConfig,
    folder: Path,
    seed: int,
    advance: Callable[[int, int], None],
    start_token: str | None = None,
    saving: Saving | None = None,
) -> dict[str, Any]:
    """Train `model` on whole texts and keep the weights of the best evaluation on the held-out ones.

    Leaves `folder/model` (an ordinary transformers folder, an adapter merged into it), `folder/adapter` where there
    is one, and `folder/log.jsonl`, one line for each logged step; `loss` in nats a token. `model` is trained in place
    and is of no use afterwards, on the device and in the dtype that it has; bfloat16 weights are trained under
    autocast. Each text begins with the start token (`start_token`, or the tokenizer's own) and ends with the end
    token where it is not cut. `advance(done, total)` counts batches. One seed and thread count give one result.
    `saving` names a folder for checkpoints, which stay there: a call that was killed goes on from the last whole one,
    to that result.

    Returns:
        What was trained on and how it went; `eval_*` are those of the model that is kept, at step `best_step`.

    Raises:
        DataError: there are no texts.
        ModelError: the model has no start token, cannot be trained so, or training diverged.
        ConfigurationError: more `top_layers` than there are, or a `max_length` beyond the model's context.
    """
    vocabulary = vocabulary_of(model, tokenizer, start_token)
    limit = context_of(model)
    if config.max_length > limit:
        raise ConfigurationError(
            f"sft.max_length is {config.max_length} and the small model's context {limit}: lower it to {limit}"
        )
    if not train or not heldout:
        raise DataError("there are no texts: fine-tuning needs training and held-out reviews")
    rows, others = (encode_texts(texts, vocabulary, config.max_length) for texts in (train, heldout))
    size = model.get_input_embeddings().weight.shape[0]
    check_ids("the small model", vocabulary, size, (row.input_ids for row in (*rows, *others)))
    rows, others = arrange(rows, config.batch_size, seed), sorted(others, key=lambda row: row.length)
    own = Saving(folder / "checkpoints")
    shutil.rmtree(own.folder, ignore_errors=True)
    checkpoints = saving or own
    folder.mkdir(parents=True, exist_ok=True)
    given, padding = as_given(model, tokenizer), able_to_pad(tokenizer, vocabulary.end_id, size)
    longest = config.max_length if config.packing else max(row.length for row in (*rows, *others))
    with quietly(), attention_for(model.device, longest):
        trainer = TextTrainer(model, padding, rows, others, config, checkpoints, seed, advance)
        start = resume_point(checkpoints.folder)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
        write_log(trainer.state.log_history, folder)
        summary, _ = outcome_of(trainer, "held-out", "sft.learning_rate")
        save_model(trainer.model, given, folder)
    shutil.rmtree(own.folder, ignore_errors=True)
    counted = {
        "reviews": len(train),
        "heldout": len(heldout),
        "cut_reviews": sum(row.input_ids[-1] != vocabulary.end_id for row in rows),
        "tokens": sum(row.length for row in rows),
    }
    return {**counted, **summary}
