"""Loads models and their tokenizers from folders, with one-line errors."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab.assets.resolve import Assets
from trimtab.config.models import Dtype, ModelConfig
from trimtab.errors import ModelError
from trimtab.models.adapter import load_adapter, merge_adapter
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.load_options import load_options, quantization_of, use_flash_attention
from trimtab.models.placement import offloaded
from trimtab.models.tokenizer import TOKENIZER_ERRORS, first_line, load_tokenizer

READ_ERRORS = (*TOKENIZER_ERRORS, SafetensorError, UnpicklingError)
"""What transformers and peft raise for folders that they cannot read."""
SAFE_LOADING: dict[str, Any] = {"weights_only": True, "trust_remote_code": False, "local_files_only": True}
"""Arguments of `from_pretrained`: no code of a checkpoint runs, and nothing is downloaded."""


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, transformers shows no progress bars and logs errors only: what matters is raised as an error."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.disable_progress_bar()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


@contextlib.contextmanager
def reading_checkpoint(folder: Path, kind: str) -> Iterator[None]:
    """Turn the libraries' errors into a ModelError: the folder holds no such `kind`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except READ_ERRORS as error:
        raise ModelError(f"{folder} holds no {kind} ({first_line(error)}): name one") from None


@quiet_libraries()
def load_causal_lm(
    config: ModelConfig, assets: Assets, device: torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, in evaluation mode on `device` or where its configuration says, with its adapter merged into it, and
    its tokenizer.

    Raises:
        AssetError: the name or the adapter cannot be found or trusted.
        ModelError: the folder holds no whole causal language model with a tokenizer, or the adapter does not fit.
    """
    folder = assets.model(config.name, allow_pickle=config.allow_pickle)
    device = device or default_device()
    dtype = pick_dtype(config.dtype, device)
    tokenizer = load_tokenizer(folder)
    keep_freed_memory()
    flash = config.attention == "flash_attention_2"
    with reading_checkpoint(folder, "causal language model"):
        options = load_options(config, folder, device, dtype, assets.cache / "offloaded")
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=None if flash else config.attention,  # None: sdpa where the family has it
            use_safetensors=None if config.allow_pickle else True,
            output_loading_info=True,
            **SAFE_LOADING,
            **options,
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder} holds no causal language model: its weights lack {missing[0]}; name one that has it"
        )
    assert quantization_of(model) == config.quantization, f"{config.name} is quantised against the option"
    if flash:
        use_flash_attention(model, device, config.name)
    model = (model if "device_map" in options else model.to(device)).eval()
    if config.adapter is not None:
        model = with_adapter(model, config.adapter, assets, merge=True)
    return model, tokenizer


def with_adapter(model: PreTrainedModel, name: str, assets: Assets, *, merge: bool = False) -> PreTrainedModel:
    """A model of the same weights with an adapter beside them; with `merge`, the model with the adapter in its weights.

    Raises:
        AssetError: the adapter cannot be found or trusted.
        ModelError: the adapter does not fit.
    """
    folder = assets.adapter(name)
    try:
        return merge_adapter(model, folder) if merge else load_adapter(model, folder)
    except torch.OutOfMemoryError:
        raise
    except (*READ_ERRORS, AttributeError) as error:  # the latter by methods that cannot merge
        remedy = "name its own"
        if any(offloaded(module) for module in model.modules()):
            remedy = "leave out device_map, or name its own"
        raise ModelError(f"the adapter in {folder} does not fit its model ({first_line(error)}): {remedy}") from None


@quiet_libraries()
def load_classifier(
    name: str, assets: Assets, *, allow_pickle: bool, num_labels: int | None = None, dtype: Dtype = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in `dtype` and evaluation mode on the default device, and its tokenizer.

    With `num_labels`, the encoder gets a new classification head of that many classes, whose weights are drawn from
    torch's global generator; without, the folder must hold a trained classifier.

    Raises:
        AssetError: the name cannot be found or trusted.
        ModelError: the folder holds no encoder with a tokenizer, or no ready classifier where one is needed.
    """
    folder = assets.model(name, allow_pickle=allow_pickle)
    tokenizer = load_tokenizer(folder)
    keep_freed_memory()
    head = {} if num_labels is None else {"num_labels": num_labels}
    with reading_checkpoint(folder, "sequence classifier"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=pick_dtype(dtype, default_device()),
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            **SAFE_LOADING,
            **head,
        )
    if num_labels is None and (missing := sorted(info["missing_keys"])):
        raise ModelError(
            f"{folder} holds no ready classifier, its weights lack {missing[0]}: name a fine-tuned one, or train one "
            "with reward.training"
        )
    return model.to(default_device()).eval(), tokenizer
