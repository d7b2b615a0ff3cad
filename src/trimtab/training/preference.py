"""Preference tuning: pairs and a small model in, an ordinary model folder out."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.models import ModelConfig
from trimtab.config.training import TuneConfig
from trimtab.errors import ConfigurationError, DataError, ModelError
from trimtab.models.context import context_of
from trimtab.models.load_options import quantization_of
from trimtab.models.roles import vocabulary_of
from trimtab.records import Pair
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
    where there is one, and `log.jsonl`, one line for each logged step: `rewards/*` and `logps/*` of chosen and rejected
    responses in nats, the former times beta; `eval_*` on the validation pairs. `model` is trained in place, on the
    device and in the dtype that it has, and emptied at the end; bfloat16 weights are trained under autocast. `small`
    gives the template, start token and system message of text prompts. Progress counts batches. One seed and thread
    count give one result. Launched processes all call this and share each batch; the main one alone writes.

    Returns:
        What was trained on and how it went; `eval_*` are those of the model that is kept, at step `best_step`.

    Raises:
        DataError: there are no usable training or validation pairs.
        ModelError: the model cannot be tuned so, the loss of a plug-in fails, or training diverged.
        VocabularyError: the pairs are another model's tokens.
        ConfigurationError: a tracker that is not installed, more `top_layers` than there are, or a `max_length` beyond
            the model's context.
    """
    check_trackers(config.trackers)
    if quantization_of(model) is not None:
        raise ModelError("quantised weights cannot be tuned: drop quantization from the small model")
    shown = small or ModelConfig(name="small")
    vocabulary = vocabulary_of(model, tokenizer, shown.start_token, chat=shown.chat, system=shown.system)
    size = model.get_input_embeddings().weight.shape[0]
    encoded = {}
    for name, pairs in (("training", train), ("validation", validation)):
        if not pairs:
            raise DataError(f"there are no {name} pairs: tuning needs training and validation pairs")
        encoded[name] = encode_pairs(pairs, vocabulary, shown.template, config.max_length, size)
        _check_lengths(encoded[name], model, config)
    rows = arrange(encoded["training"].rows, config.batch_size, job.seed)
    others = sorted(encoded["validation"].rows, key=lambda row: row.length)
    outcome, best = train_and_save(
        lambda padding: PairTrainer(model, padding, rows, others, config, job),
        model,
        vocabulary,
        max(row.length for row in (*rows, *others)),
        job,
        config.trackers,
    )
    return {
        "training_pairs": len(rows),
        "validation_pairs": len(others),
        "truncated_pairs": sum(pairs.truncated for pairs in encoded.values()),
        "dropped_pairs": sum(pairs.dropped for pairs in encoded.values()),
        **outcome,
        "eval_accuracy": best["eval_rewards/accuracies"],
        "eval_margin": best["eval_rewards/margins"],
        "eval_logps_chosen": best["eval_logps/chosen"],
        "eval_logps_rejected": best["eval_logps/rejected"],
    }


def _check_lengths(encoded: EncodedPairs, model: PreTrainedModel, config: TuneConfig) -> None:
    """Raise ConfigurationError where a row is longer than the model can read."""
    longest, limit = max(row.length for row in encoded.rows), context_of(model)
    if longest > limit:
        raise ConfigurationError(
            f"tune.max_length is {config.max_length}, and a pair of {longest} tokens exceeds the small model's context "
            f"of {limit}: lower tune.max_length to {limit}"
        )
