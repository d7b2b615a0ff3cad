"""Loads models and their tokenizers: the element type, the attention, adapters, and one-line errors.

model, tokenizer = load_causal_lm(ModelConfig(name="google/gemma-3-270m"), Assets())
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab.assets.resolve import Assets
from trimtab.config.models import Dtype, ModelConfig
from trimtab.errors import ModelError
from trimtab.models.adapter import beside, merged
from trimtab.models.allocator import keep_freed_memory
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.load_options import loading, quantization_of, use_flash_attention
from trimtab.models.placement import offloaded

# What transformers and peft raise for folders that they cannot read.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError, UnpicklingError)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, transformers shows no bars and makes no remarks: what matters of them is raised as an error."""
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


@quiet_libraries()
def load_causal_lm(config: ModelConfig, assets: Assets) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in evaluation mode where its configuration places it, its adapter merged into it; its tokenizer.

    Raises:
        AssetError: the name or the adapter resolves to nothing that may be read.
        ModelError: the folder holds no whole causal language model with a tokenizer, or the adapter does not fit.
    """
    folder = assets.model(config.name, allow_pickle=config.allow_pickle)
    device = default_device()
    dtype = pick_dtype(config.dtype, device)
    tokenizer = load_tokenizer(folder)
    keep_freed_memory()
    flash = config.attention == "flash_attention_2"
    try:
        placing = loading(config, folder, device, dtype, assets.cache / "offloaded")
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=None if flash else config.attention,  # None: sdpa where the family has it
            **placing,
            use_safetensors=None if config.allow_pickle else True,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        raise ModelError(f"{folder} holds no causal language model ({_line(error)}): name one") from None
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])[0]
        raise ModelError(f"{folder} holds no causal language model: its weights lack {lacking}; name one that has it")
    assert quantization_of(model) == config.quantization, f"{config.name} is quantised against the option"
    if flash:
        use_flash_attention(model, device, config.name)
    model = (model if "device_map" in placing else model.to(device)).eval()
    if config.adapter is not None:
        model = with_adapter(model, config.adapter, assets, merge=True)
    return model, tokenizer


def with_adapter(model: PreTrainedModel, name: str, assets: Assets, *, merge: bool = False) -> PreTrainedModel:
    """A model of the same weights with an adapter beside them; with `merge`, the model with the adapter in its weights.

    Raises:
        AssetError: the name resolves to nothing that may be read.
        ModelError: the adapter does not fit.
    """
    folder = assets.adapter(name)
    try:
        return merged(model, folder) if merge else beside(model, folder)
    except torch.OutOfMemoryError:
        raise
    except (*_UNREADABLE, AttributeError) as error:  # the latter of methods that know no merging
        waits = any(offloaded(module) for module in model.modules())
        remedy = "leave out device_map, or name its own" if waits else "name its own"
        raise ModelError(f"the adapter in {folder} does not fit its model ({_line(error)}): {remedy}") from None


@quiet_libraries()
def load_classifier(
    name: str, assets: Assets, *, allow_pickle: bool, num_labels: int | None = None, dtype: Dtype = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in `dtype` and evaluation mode on the default device, and its tokenizer.

    With `num_labels`, an encoder is taken and given a new head of that many classes, drawn from torch's global
    generator; without, the folder must hold a ready classifier.

    Raises:
        AssetError: the name resolves to nothing that may be read.
        ModelError: the folder holds no encoder with a tokenizer, or a ready classifier was needed and is not there.
    """
    folder = assets.model(name, allow_pickle=allow_pickle)
    tokenizer = load_tokenizer(folder)
    keep_freed_memory()
    head = {} if num_labels is None else {"num_labels": num_labels}
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=pick_dtype(dtype, default_device()),
            use_safetensors=None if allow_pickle else True,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **head,
        )
    except _UNREADABLE as error:
        raise ModelError(f"{folder} holds no sequence classifier ({_line(error)}): name one") from None
    if num_labels is None and info["missing_keys"]:
        raise ModelError(
            f"{folder} holds no ready classifier, its weights lack {sorted(info['missing_keys'])[0]}: "
            f"name a fine-tuned one, or train one with reward.training"
        )
    return model.to(default_device()).eval(), tokenizer


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        ModelError: the folder holds none that can be read.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        if not isinstance(error, _UNREADABLE) and type(error) is not Exception:  # as which tokenizers raises its own
            raise
        raise ModelError(f"{folder} holds no tokenizer ({_line(error)}): save one beside the weights") from None


def _line(error: Exception) -> str:
    """The start of a library's message, on one line."""
    if isinstance(error, UnpicklingError):  # torch's message would advise to switch the check off
        return "its pickle holds more than tensors, and was not run"
    return " ".join(str(error).split())[:160]
