"""Preference tuning: pairs and a small model in, an ordinary model folder out.

`tune` is the stage; rows and batches are made in `pair_tokens`, the trainer is in `pair_trainer`. Knows nothing of how
the pairs came to be.

    >>> summary = tune(train, validation, model, tokenizer, TuneConfig(), Path("tuned"), 0, print)  # doctest: +SKIP
    >>> summary["eval_accuracy"]                                                        # doctest: +SKIP
    0.81
"""

import copy
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.durable import write_text
from trimtab.errors import ConfigurationError, DataError, ModelError
from trimtab.experiment import TuneConfig
from trimtab.fields import CHAT
from trimtab.models.roles import vocabulary_of
from trimtab.records import Pair
from trimtab.training.batches import arrange
from trimtab.training.checkpoints import Saving, resume_point
from trimtab.training.outcome import quietly, save_model, timeless
from trimtab.training.pair_tokens import EncodedPairs, encode_pairs
from trimtab.training.pair_trainer import PairTrainer


def tune(
    train: Sequence[Pair],
    validation: Sequence[Pair],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: TuneConfig,
    folder: Path,
    seed: int,
    advance: Callable[[int, int], None],
    prompt_template: str = "{prompt}",
    start_token: str | None = None,
    saving: Saving | None = None,
    system: str | None = None,
) -> dict[str, Any]:
    """Tune `model` towards the chosen responses and keep the weights of the best evaluation.

    Leaves `folder/model` (an ordinary transformers folder, an adapter merged into it), `folder/adapter` where there
    is one, and `folder/log.jsonl`, one line for each logged step: `rewards/*` and `logps/*` of chosen and rejected
    responses in nats, the former times beta; `eval_*` on the validation pairs. `model` is trained in place and is of
    no use afterwards. Training runs on the device and in the dtype that the model has; bfloat16 weights are trained
    under autocast. Text prompts are put into `prompt_template`, and an empty one begins with `start_token`; where
    it is `chat`, all prompts are conversations, with the message `system` where they bring none.
    `advance(done, total)` counts batches. One seed and thread count give one result. `saving` names a folder for
    checkpoints, which stay there: a call that was killed goes on from the last whole one, to that result.

    Returns:
        What was trained on and how it went; `eval_*` are those of the model that is kept, at step `best_step`.

    Raises:
        DataError: there are no usable training or validation pairs.
        ModelError: the model cannot be tuned so, or training diverged.
        VocabularyError: the pairs are another model's tokens.
        ConfigurationError: a tracker that is not installed, more `top_layers` than there are, or a `max_length` beyond
            the model's context.
    """
    encoded = {}
    vocabulary = vocabulary_of(model, tokenizer, start_token, chat=prompt_template == CHAT, system=system)
    for name, pairs in (("training", train), ("validation", validation)):
        if not pairs:
            raise DataError(f"there are no {name} pairs: tuning needs training and validation pairs")
        size = model.get_input_embeddings().weight.shape[0]
        encoded[name] = encode_pairs(pairs, vocabulary, prompt_template, config.max_length, size)
        _check_lengths(encoded[name], model, config)
    own = Saving(folder / "checkpoints")
    shutil.rmtree(own.folder, ignore_errors=True)
    checkpoints = saving or own
    folder.mkdir(parents=True, exist_ok=True)
    # The trainer writes its own special tokens into these; what is saved is what was given.
    given = copy.deepcopy(model.config), copy.deepcopy(model.generation_config), tokenizer
    with quietly():
        padding = copy.deepcopy(tokenizer)
        if padding.pad_token is None:
            padding.pad_token = padding.convert_ids_to_tokens(vocabulary.end_id)
        trainer = _trainer(encoded, model, padding, config, checkpoints, seed, advance)
        start = resume_point(checkpoints.folder)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
        history = [timeless(entry) for entry in trainer.state.log_history]
        write_text(folder / "log.jsonl", (json.dumps(entry, sort_keys=True) + "\n" for entry in history))
        summary = _summary(history, encoded, trainer)
        save_model(trainer.model, given, folder)
    if (checkpoints.folder / "runs").is_dir():  # what a tracker wrote among the checkpoints
        shutil.copytree(checkpoints.folder / "runs", folder / "trackers", dirs_exist_ok=True)
    shutil.rmtree(own.folder, ignore_errors=True)
    return summary


def _trainer(
    encoded: Mapping[str, EncodedPairs],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: TuneConfig,
    checkpoints: Saving,
    seed: int,
    advance: Callable[[int, int], None],
) -> PairTrainer:
    return PairTrainer(
        model,
        tokenizer,
        arrange(encoded["training"].rows, config.batch_size, seed),
        sorted(encoded["validation"].rows, key=lambda row: row.length),
        config,
        checkpoints,
        seed,
        advance,
    )


def _check_lengths(encoded: EncodedPairs, model: PreTrainedModel, config: TuneConfig) -> None:
    """Raise ConfigurationError where a row is longer than the model can read."""
    longest, limit = max(row.length for row in encoded.rows), model.config.get_text_config().max_position_embeddings
    if longest > limit:
        raise ConfigurationError(
            f"tune.max_length is {config.max_length}, and a pair of {longest} tokens exceeds the small model's context "
            f"of {limit}: lower tune.max_length to {limit}"
        )


def _summary(
    history: Sequence[Mapping[str, Any]], encoded: Mapping[str, EncodedPairs], trainer: PairTrainer
) -> dict[str, Any]:
    """Raises ModelError where no evaluation gave a number."""
    evaluations = [entry for entry in history if "eval_loss" in entry]
    finite = [entry for entry in evaluations if math.isfinite(entry["eval_loss"])]
    if not finite:
        raise ModelError(
            f"training diverged: the validation loss is {evaluations[-1]['eval_loss']} after "
            f"{evaluations[-1]['step']} steps; lower tune.learning_rate"
        )
    best = min(finite, key=lambda entry: entry["eval_loss"])
    assert best["step"] == trainer.state.best_global_step
    return {
        "training_pairs": len(encoded["training"].rows),
        "validation_pairs": len(encoded["validation"].rows),
        "truncated_pairs": sum(pairs.truncated for pairs in encoded.values()),
        "dropped_pairs": sum(pairs.dropped for pairs in encoded.values()),
        "trained_parameters": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        "steps": trainer.state.global_step,
        "evaluations": len(evaluations),
        "best_step": best["step"],
        "eval_loss": best["eval_loss"],
        "eval_accuracy": best["eval_rewards/accuracies"],
        "eval_margin": best["eval_rewards/margins"],
        "eval_logps_chosen": best["eval_logps/chosen"],
        "eval_logps_rejected": best["eval_logps/rejected"],
        "final_eval_loss": evaluations[-1]["eval_loss"] if math.isfinite(evaluations[-1]["eval_loss"]) else None,
    }
