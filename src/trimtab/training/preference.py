"""Preference tuning: pairs and a small model in, an ordinary model folder out.

`tune` is the stage; rows and batches are made in `pair_tokens`, the trainer is in `pair_trainer`.

    >>> summary = tune(train, validation, model, tokenizer, TuneConfig(), Path("tuned"), 0, print)  # doctest: +SKIP
    >>> summary["eval_accuracy"]                                                        # doctest: +SKIP
    0.81
"""

import gc
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.fields import CHAT, check_template
from trimtab.config.training import TuneConfig
from trimtab.errors import ConfigurationError, DataError, ModelError
from trimtab.models.context import context_of
from trimtab.models.load_options import quantization_of
from trimtab.models.roles import vocabulary_of
from trimtab.records import Pair
from trimtab.store.distributed import decided_by_main, launched, sharding
from trimtab.training.attention import attention_for
from trimtab.training.batches import arrange
from trimtab.training.checkpoints import Saving, checkpoint_step, resume_point
from trimtab.training.data_parallel import make_whole
from trimtab.training.pair_tokens import EncodedPairs, encode_pairs
from trimtab.training.pair_trainer import PairTrainer
from trimtab.training.saved_model import able_to_pad, as_given, outcome_of, quietly, save_model, write_log
from trimtab.training.trackers import check_trackers, run_name, tracking

_log = logging.getLogger(__name__)


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
    trackers: Path | None = None,
) -> dict[str, Any]:
    """Tune `model` towards the chosen responses and keep the weights of the best evaluation.

    Leaves `folder/model` (an ordinary transformers folder, an adapter merged into it), `folder/adapter` where there
    is one, and `folder/log.jsonl`, one line for each logged step: `rewards/*` and `logps/*` of chosen and rejected
    responses in nats, the former times beta; `eval_*` on the validation pairs. `model` is trained in place and
    emptied at the end. Training runs on the device and in the dtype that the model has; bfloat16 weights are trained
    under autocast. Text prompts are put into `prompt_template`, and an empty one begins with `start_token`; where
    it is `chat`, all prompts are conversations, with the message `system` where they bring none.
    `advance(done, total)` counts batches. One seed and thread count give one result. `saving` names a folder for
    checkpoints, which stay there: a call that was killed goes on from the last whole one, to that result. `trackers` is
    where trackers write that write files, `folder/trackers` if not given.

    Launched as several processes, all call this and share each batch; the main one alone writes `folder` and asks for
    progress to be shown, and all return when it has.

    Returns:
        What was trained on and how it went; `eval_*` are those of the model that is kept, at step `best_step`.

    Raises:
        DataError: there are no usable training or validation pairs.
        ModelError: the model cannot be tuned so, or training diverged.
        VocabularyError: the pairs are another model's tokens.
        ConfigurationError: a template without a place for the prompt, a tracker that is not installed, more
            `top_layers` than there are, or a `max_length` beyond the model's context.
    """
    check_trackers(config.trackers)
    check_template(prompt_template)
    encoded = {}
    if quantization_of(model) is not None:
        raise ModelError("quantised weights cannot be tuned: drop quantization from the small model")
    vocabulary = vocabulary_of(model, tokenizer, start_token, chat=prompt_template == CHAT, system=system)
    size = model.get_input_embeddings().weight.shape[0]
    for name, pairs in (("training", train), ("validation", validation)):
        if not pairs:
            raise DataError(f"there are no {name} pairs: tuning needs training and validation pairs")
        encoded[name] = encode_pairs(pairs, vocabulary, prompt_template, config.max_length, size)
        _check_lengths(encoded[name], model, config)
    own = Saving(folder / "checkpoints")
    checkpoints = saving or own
    if launched().main:
        shutil.rmtree(own.folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    given, padding = as_given(model, tokenizer), able_to_pad(tokenizer, vocabulary.end_id, size)
    with quietly():
        trainer = _trained(encoded, model, padding, config, checkpoints, trackers or folder / "trackers", seed, advance)
        summary = _summary(encoded, trainer)
        if sharding() == "FSDP":
            make_whole(trainer.model)
        if launched().main:
            write_log(trainer.state.log_history, folder)
            save_model(trainer.model, given, folder)
            shutil.rmtree(own.folder, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
    # trainer, callbacks and model know each other in circles, in which the memory would wait for the garbage collector
    model.to("meta")
    del trainer
    gc.collect()
    return summary


def _trained(
    encoded: Mapping[str, EncodedPairs],
    model: PreTrainedModel,
    padding: PreTrainedTokenizerBase,
    config: TuneConfig,
    checkpoints: Saving,
    trackers: Path,
    seed: int,
    advance: Callable[[int, int], None],
) -> PairTrainer:
    """The trainer at its end, with the weights of the best evaluation."""
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    start = resume_point(checkpoints.folder) if launched().main else None
    step = 0 if start is None else checkpoint_step(start)
    names = config.trackers if launched().main else ()
    name = run_name(trackers, checkpoints.folder, step) if names else None
    longest = max(row.length for each in encoded.values() for row in each.rows)
    with tracking(names, trackers, name, step) as callbacks, attention_for(model.device, longest):
        trainer = _trainer(encoded, model, padding, config, checkpoints, seed, advance)
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.args.run_name = name
        start = decided_by_main(lambda: start)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    if not launched().alone:
        wrapper = type(trainer.model_wrapped).__name__
        _log.info("tuned by %d processes, each with its share of every batch, in %s", launched().count, wrapper)
    return trainer


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
    longest, limit = max(row.length for row in encoded.rows), context_of(model)
    if longest > limit:
        raise ConfigurationError(
            f"tune.max_length is {config.max_length}, and a pair of {longest} tokens exceeds the small model's context "
            f"of {limit}: lower tune.max_length to {limit}"
        )


def _summary(encoded: Mapping[str, EncodedPairs], trainer: PairTrainer) -> dict[str, Any]:
    """Raises ModelError where no evaluation gave a number."""
    outcome, best = outcome_of(trainer, "validation", "tune.learning_rate")
    assert best["step"] == trainer.state.best_global_step
    return {
        "training_pairs": len(encoded["training"].rows),
        "validation_pairs": len(encoded["validation"].rows),
        "truncated_pairs": sum(pairs.truncated for pairs in encoded.values()),
        "dropped_pairs": sum(pairs.dropped for pairs in encoded.values()),
        **outcome,
        "eval_accuracy": best["eval_rewards/accuracies"],
        "eval_margin": best["eval_rewards/margins"],
        "eval_logps_chosen": best["eval_logps/chosen"],
        "eval_logps_rejected": best["eval_logps/rejected"],
    }
