"""What a training of the small model leaves behind: an ordinary model folder, a log without times, and no noise.

>>> timeless({"loss": 0.5, "train_runtime": 12.3})
{'loss': 0.5}
"""

import contextlib
import copy
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from trimtab.errors import ModelError
from trimtab.models.load import quiet_libraries
from trimtab.store.files import write_text

# Wall time has no place beside numbers that are the same each time.
TIMES = frozenset(
    f"{phase}_{name}"
    for phase in ("train", "eval")
    for name in ("runtime", "samples_per_second", "steps_per_second", "tokens_per_second")
)


Given = tuple[Any, Any, PreTrainedTokenizerBase]
"""A model's configuration and generation configuration, and its tokenizer."""


def timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the trainer's log without its times."""
    return {name: value for name, value in entry.items() if name not in TIMES}


def as_given(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Given:
    """What is saved in the end: a trainer writes its own special tokens into configurations."""
    return copy.deepcopy(model.config), copy.deepcopy(model.generation_config), tokenizer


def able_to_pad(tokenizer: PreTrainedTokenizerBase, end_id: int, rows: int) -> PreTrainedTokenizerBase:
    """A copy for the trainer, which pads with the end token where there is no other, or none of the model's `rows`."""
    padding = copy.deepcopy(tokenizer)
    if padding.pad_token_id is None or padding.pad_token_id >= rows:
        padding.pad_token = padding.convert_ids_to_tokens(end_id)
    return padding


def write_log(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `folder/log.jsonl`, one line for each entry of a trainer's history."""
    write_text(folder / "log.jsonl", (json.dumps(timeless(entry), sort_keys=True) + "\n" for entry in history))


def save_model(model: PreTrainedModel | PeftModel, given: Given, folder: Path) -> None:
    """Write `folder/model` with the configuration and tokenizer that were given, any adapter as `folder/adapter`."""
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.target_modules = sorted(config.target_modules)  # of a set, which each process orders in its own way
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        model = model.merge_and_unload()
    model.config, model.generation_config, tokenizer = given
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, no library shows bars for the files and tables it writes, or speaks of names it will retire."""
    maps = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with quiet_libraries(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*deprecated")
            yield
    finally:
        if not maps:
            enable_progress_bars()


def outcome_of(trainer: Trainer, what: str, setting: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """How a training went, as its summary has it, and its evaluation of the least loss; on `what` data, learning at
    the rate of `setting`.

    Raises:
        ModelError: no evaluation gave a number.
    """
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    finite = [entry for entry in evaluations if math.isfinite(entry["eval_loss"])]
    if not finite:
        raise ModelError(
            f"training diverged: the {what} loss is {evaluations[-1]['eval_loss']} after "
            f"{evaluations[-1]['step']} steps; lower {setting}"
        )
    best, final = min(finite, key=lambda entry: entry["eval_loss"]), evaluations[-1]["eval_loss"]
    summary = {
        "trained_parameters": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        "steps": trainer.state.global_step,
        "evaluations": len(evaluations),
        "best_step": best["step"],
        "eval_loss": best["eval_loss"],
        "final_eval_loss": final if math.isfinite(final) else None,
    }
    return summary, best
