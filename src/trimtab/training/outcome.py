"""What a training of the small model leaves behind: an ordinary model folder, a log without times, and no noise.

Knows nothing of what was trained.

    >>> timeless({"loss": 0.5, "train_runtime": 12.3})
    {'loss': 0.5}
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from trimtab.errors import ModelError

# Wall time has no place beside numbers that are the same each time.
TIMES = frozenset(
    f"{phase}_{name}"
    for phase in ("train", "eval")
    for name in ("runtime", "samples_per_second", "steps_per_second", "tokens_per_second")
)


def timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the trainer's log without its times."""
    return {name: value for name, value in entry.items() if name not in TIMES}


def save_model(
    model: PreTrainedModel | PeftModel, given: tuple[Any, Any, PreTrainedTokenizerBase], folder: Path
) -> None:
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
    level, bars, maps = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*deprecated")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not maps:
            enable_progress_bars()


def evaluations_of(
    history: Sequence[Mapping[str, Any]], what: str, setting: str
) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """All evaluations of a trainer's history, and the one of the least loss; on `what` data, learning at `setting`.

    Raises:
        ModelError: no evaluation gave a number.
    """
    evaluations = [entry for entry in history if "eval_loss" in entry]
    finite = [entry for entry in evaluations if math.isfinite(entry["eval_loss"])]
    if not finite:
        raise ModelError(
            f"training diverged: the {what} loss is {evaluations[-1]['eval_loss']} after "
            f"{evaluations[-1]['step']} steps; lower {setting}"
        )
    return evaluations, min(finite, key=lambda entry: entry["eval_loss"])
