"""Preference tuning: pairs and a small model in, an ordinary model folder out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.models import ModelConfig
from trimtab.config.training import TuneConfig
from trimtab.errors import ConfigurationError, DataError, ModelError, check_type
from trimtab.models.context import context_of
from trimtab.models.load_options import quantization_of
from trimtab.models.prompting import prompting_of, write_prompting
from trimtab.models.roles import vocabulary_of
from trimtab.records import Pair
from trimtab.store.distributed import launched
from trimtab.training.batches import arrange
from trimtab.training.job import TrainingJob
from trimtab.training.pair_trainer import PairTrainer
from trimtab.training.saved_model import train_and_save
from trimtab.training.tokens import EncodedPairs, encode_pairs
from trimtab.training.trackers import check_trackers


def tune(
    train: Sequence[Pair],
    validation: Sequence[Pair],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: TuneConfig,
    job: TrainingJob,
    small: ModelConfig | None = None,
) -> dict[str, Any]:
    """Tune `model` towards the chosen responses and keep the weights of the best evaluation.

    Writes into the job's folder `model` (an ordinary transformers folder, an adapter merged into it), `adapter`
    where there is one, each with how prompts are shown to it (`models.prompting`), and `log.jsonl`, one line for each
    logged step: `rewards/*` and `logps/*` of chosen and rejected responses in nats, the former times beta; `eval_*` on
    the validation pairs. `model` is trained in place, on its device and in its dtype, and emptied at the end; bfloat16
    weights are trained under autocast. `small` gives the template, start token and system message of text prompts.
    Progress counts batches. The same seed and number of threads give the same result. All launched processes call this
    and share each batch; only the main one writes.

    Returns:
        The summary: counts of pairs, how the training went, and `eval_*` of the weights kept, those of `best_step`.

    Raises:
        DataError: there are no usable training or validation pairs.
        ModelError: the model cannot be tuned as configured (quantised or float16 weights, no layers for an adapter),
            the loss of a plug-in fails, or training diverged.
        VocabularyError: the pairs hold token ids of another model.
        ConfigurationError: a tracker that is not installed, more `top_layers` than there are, or a `max_length` beyond
            the model's context.
    """
    _check_arguments(train, validation, model, tokenizer, config, job, small)
    check_trackers(config.trackers)
    if quantization_of(model) is not None:
        raise ModelError("quantised weights cannot be tuned: drop quantization from the small model")
    prompting = small or ModelConfig(name="small")
    vocabulary = vocabulary_of(model, tokenizer, prompting.start_token, chat=prompting.chat, system=prompting.system)
    size = model.get_input_embeddings().weight.shape[0]
    encoded = []
    for name, pairs in (("training", train), ("validation", validation)):
        if not pairs:
            raise DataError(f"there are no {name} pairs: tuning needs training and validation pairs")
        encoded.append(encode_pairs(pairs, vocabulary, prompting.template, config.max_length, size))
        _check_lengths(encoded[-1], model, config)
    rows = arrange(encoded[0].rows, config.batch_size, job.seed)
    validation_rows = sorted(encoded[1].rows, key=lambda row: row.length)
    outcome, best = train_and_save(
        lambda padding: PairTrainer(model, padding, rows, validation_rows, config, job),
        model,
        vocabulary,
        max(row.length for row in (*rows, *validation_rows)),
        job,
        config.trackers,
    )
    if launched().main:
        for folder in filter(Path.is_dir, (job.folder / "model", job.folder / "adapter")):
            write_prompting(folder, prompting_of(prompting))
    return {**_counts(*encoded), **outcome, **_best_evaluation(best)}


def _check_arguments(
    train: Sequence[Pair],
    validation: Sequence[Pair],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: TuneConfig,
    job: TrainingJob,
    small: ModelConfig | None,
) -> None:
    """Raise ConfigurationError for arguments of `tune` of other types."""
    for name, pairs in (("train", train), ("validation", validation)):
        check_type(name, pairs, Sequence, "a list of pairs")
        for pair in pairs:
            check_type(name, pair, Pair, "pairs, as trimtab.make_pairs makes them")
    check_type("model", model, PreTrainedModel, "a model of transformers")
    check_type("tokenizer", tokenizer, PreTrainedTokenizerBase, "the model's tokenizer")
    check_type("config", config, TuneConfig, "a TuneConfig of trimtab.config.training")
    check_type("job", job, TrainingJob, "a TrainingJob of trimtab.training.job, which has the folder")
    check_type("small", small, ModelConfig | None, "a trimtab.ModelConfig")


def _check_lengths(encoded: EncodedPairs, model: PreTrainedModel, config: TuneConfig) -> None:
    """Raise ConfigurationError where a row is longer than the model's context."""
    longest, limit = max(row.length for row in encoded.rows), context_of(model)
    if longest > limit:
        raise ConfigurationError(
            f"tune.max_length is {config.max_length}, and a pair of {longest} tokens exceeds the small model's context "
            f"of {limit}: lower tune.max_length to {limit}"
        )


def _counts(training: EncodedPairs, validation: EncodedPairs) -> dict[str, int]:
    return {
        "training_pairs": len(training.rows),
        "validation_pairs": len(validation.rows),
        "truncated_pairs": training.truncated + validation.truncated,
        "dropped_pairs": training.dropped + validation.dropped,
    }


def _best_evaluation(best: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a log entry of the trainer, under the names of the summary."""
    return {
        "eval_accuracy": best["eval_rewards/accuracies"],
        "eval_margin": best["eval_rewards/margins"],
        "eval_logps_chosen": best["eval_logps/chosen"],
        "eval_logps_rejected": best["eval_logps/rejected"],
    }
