"""From a trainer of the small model to what it leaves: an ordinary model folder, and a log without times.

>>> timeless({"loss": 0.5, "train_runtime": 12.3})
{'loss': 0.5}
"""

import contextlib
import copy
import gc
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.errors import ModelError
from trimtab.models.load import quiet_libraries
from trimtab.models.quiet import quiet_datasets
from trimtab.models.vocabulary import Vocabulary
from trimtab.store.distributed import decided_by_main, launched, sharding
from trimtab.store.files import write_text
from trimtab.training.attention import attention_for
from trimtab.training.checkpoints import resume_point
from trimtab.training.data_parallel import make_whole
from trimtab.training.job import TrainingJob
from trimtab.training.resumable_trainer import ResumableTrainer
from trimtab.training.trackers import tracking

_log = logging.getLogger(__name__)

TIMES = ("_runtime", "_per_second")
"""Ends of the names of wall times in transformers' log, which has to be the same each time."""
Original = tuple[Any, Any, PreTrainedTokenizerBase]
"""A model's configuration and generation configuration, and its tokenizer."""


def timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the trainer's log without its times."""
    return {name: value for name, value in entry.items() if not name.endswith(TIMES)}


def able_to_pad(tokenizer: PreTrainedTokenizerBase, end_id: int, rows: int) -> PreTrainedTokenizerBase:
    """A copy for the trainer, which pads with the end token where there is no other, or none of the model's `rows`."""
    padding = copy.deepcopy(tokenizer)
    if padding.pad_token_id is None or padding.pad_token_id >= rows:
        padding.pad_token = padding.convert_ids_to_tokens(end_id)
    return padding


def train_and_save(
    trainer_of: Callable[[PreTrainedTokenizerBase], ResumableTrainer],
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    longest: int,
    job: TrainingJob,
    trackers: Sequence[str] = (),
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Train `model`, write `model`, `adapter` (if any) and `log.jsonl` into the job's folder, and empty the model.

    `trainer_of` makes the trainer from a tokenizer that can pad; no row is longer than `longest` tokens. All launched
    processes call this, the main one writes, and all return when it has written.

    Returns:
        How the training went, and the log's entry of the evaluation whose weights were kept.

    Raises:
        ModelError: training diverged.
        ConfigurationError: a tracker refuses to begin.
    """
    main, checkpoints = launched().main, job.checkpoints.folder
    original = _original_of(model, vocabulary.tokenizer)
    padding = able_to_pad(vocabulary.tokenizer, vocabulary.end_id, model.get_input_embeddings().weight.shape[0])
    with _quiet(), job.writing():
        start = resume_point(checkpoints) if main else None
        names, files = trackers if main else (), job.trackers or job.folder / "trackers"
        with tracking(names, files, checkpoints, start) as track, attention_for(model.device, longest):
            trainer = trainer_of(padding)
            track(trainer)
            start = decided_by_main(lambda: start)  # only now, as the trainer's constructor connects the processes
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
        if not launched().alone:
            wrapper = type(trainer.model_wrapped).__name__
            _log.info("tuned by %d processes, each with its share of every batch, in %s", launched().count, wrapper)
        outcome = _outcome(trainer)
        if sharding() == "FSDP":
            make_whole(trainer.model)
        if main:
            _write_log(trainer.state.log_history, job.folder)
            _save_model(trainer.model, original, job.folder)
        trainer.accelerator.wait_for_everyone()
    # trainer, callbacks and model refer to each other in circles, whose memory would wait for the garbage collector
    model.to("meta")
    del trainer
    gc.collect()
    return outcome


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, no library shows progress bars or warns of names that it will retire."""
    with quiet_libraries(), quiet_datasets(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*deprecated")
        yield


def _original_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Original:
    """Copies to save at the end: a trainer writes special tokens into the model's configurations."""
    return copy.deepcopy(model.config), copy.deepcopy(model.generation_config), tokenizer


def _write_log(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `folder/log.jsonl`, one line for each entry of a trainer's history."""
    write_text(folder / "log.jsonl", (json.dumps(timeless(entry), sort_keys=True) + "\n" for entry in history))


def _save_model(model: PreTrainedModel | PeftModel, original: Original, folder: Path) -> None:
    """Write `folder/model` with the original configuration and tokenizer, any adapter as `folder/adapter`."""
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.target_modules = sorted(config.target_modules)  # of a set, which each process orders in its own way
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        model = model.merge_and_unload()
    model.config, model.generation_config, tokenizer = original
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def _outcome(trainer: ResumableTrainer) -> tuple[dict[str, Any], Mapping[str, Any]]:
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    finite = [entry for entry in evaluations if math.isfinite(entry["eval_loss"])]
    last = evaluations[-1]
    if not finite:
        raise ModelError(
            f"training diverged: the {trainer.heldout} loss is {last['eval_loss']} after {last['step']} steps; "
            f"lower {trainer.part}.learning_rate"
        )
    best = min(finite, key=lambda entry: entry["eval_loss"])
    assert best["step"] == trainer.state.best_global_step
    summary = {
        "trained_parameters": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        "steps": trainer.state.global_step,
        "evaluations": len(evaluations),
        "best_step": best["step"],
        "eval_loss": best["eval_loss"],
        "final_eval_loss": last["eval_loss"] if math.isfinite(last["eval_loss"]) else None,
    }
    return summary, best
