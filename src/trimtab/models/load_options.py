"""Options for loading a model that is large for its machine: quantisation, several devices, offload, FlashAttention."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from trimtab.config.models import ModelConfig
from trimtab.errors import ModelError
from trimtab.models.attention import FLASH
from trimtab.models.shared_layers import layer_stack


def load_options(
    config: ModelConfig, folder: Path, device: torch.device, dtype: torch.dtype, offload: Path
) -> dict[str, Any]:
    """Arguments of `from_pretrained`; empty for a model that is loaded in its stored precision onto one device.

    Args:
        folder: the model's files.
        device: where it runs; `device_map` may name more.
        dtype: of the computation, and of weights that are not quantised.
        offload: a folder for weights that are offloaded to the disk and are not stored as safetensors.

    Raises:
        ModelError: the model is stored with another quantisation than configured, or a package is missing.
    """
    options: dict[str, Any] = {}
    stored = _stored_quantization(folder)
    if stored is not None and stored != config.quantization:
        remedy = f"set quantization: {stored}" if stored in ("4bit", "8bit") else "its method is not supported"
        raise ModelError(f"{folder} holds weights that are quantised already ({stored}): {remedy}, or name others")
    if config.quantization is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ModelError(
                f"quantization: {config.quantization} needs bitsandbytes: pip install 'trimtab[quantized]', or drop it"
            )
        if stored is None:
            options["quantization_config"] = _quantization(config, dtype)
        options["device_map"] = {"": str(device)}
    if config.device_map in ("cpu", "disk"):
        options |= {"device_map": _offload_map(config.device_map, folder, device), "offload_folder": offload}
    elif config.device_map is not None:
        options |= {"device_map": config.device_map, "offload_folder": offload}
        if config.gpu_memory is not None:
            gpus: list[int | str] = list(range(torch.cuda.device_count()))
            options["max_memory"] = {**dict.fromkeys(gpus, f"{config.gpu_memory}GB"), "cpu": "1000GB"}
    return options


def _quantization(config: ModelConfig, dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314), or LLM.int8() (arXiv 2208.07339)."""
    if config.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _stored_quantization(folder: Path) -> str | None:
    """How the weights of a folder are quantised: 4bit, 8bit, or another method's name; None where they are not."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).to_dict()
    stored = config.get("quantization_config")
    if stored is None:
        return None
    if stored.get("quant_method") == "bitsandbytes":
        return "4bit" if stored.get("load_in_4bit") else "8bit"
    return str(stored.get("quant_method"))


def _offload_map(target: str, folder: Path, device: torch.device) -> dict[str, Any]:
    """A device map that keeps the layers on `target` (cpu, disk) until they run, and all the rest on the device."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config)
    stack, layers = layer_stack(shell)
    if not layers:
        raise ModelError(f"{folder}'s model has no stack of layers to leave: give another device_map, such as auto")
    prefix = f"{shell.base_model_prefix}.{stack}"
    # a tied weight has several names, and each of them needs a device
    tensors = [*shell.named_parameters(remove_duplicate=False), *shell.named_buffers()]
    around = {name: str(device) for name, _ in tensors if not name.startswith(f"{prefix}.")}
    return {**around, **{f"{prefix}.{number}": target for number in range(len(layers))}}


def quantization_of(model: PreTrainedModel) -> str | None:
    """How a loaded model's weights are quantised: 4bit, 8bit, or None."""
    kinds = {type(module).__name__ for module in model.modules()}
    return next((name for name, kind in (("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")) if kind in kinds), None)


def use_flash_attention(model: PreTrainedModel, device: torch.device, name: str) -> None:
    """Have the model compute attention with FlashAttention 2.

    Raises:
        ModelError: the package is missing, or does not support this device, type or model.
    """
    check_flash_attention(device)
    if model.dtype not in (torch.bfloat16, torch.float16):
        raise ModelError(f"attention: flash_attention_2 needs 16 bits and {name} has {model.dtype}: set its dtype")
    if not model._can_set_attn_implementation():
        raise ModelError(f"a {model.config.model_type} model computes attention in its own way: leave attention out")
    model.set_attn_implementation(FLASH)


def check_flash_attention(device: torch.device) -> None:
    """Raise ModelError where the package of FlashAttention 2 is missing, or the device is none that it runs on."""
    if importlib.util.find_spec("flash_attn") is None or device.type != "cuda":
        raise ModelError("attention: flash_attention_2 needs the package flash-attn and a CUDA device: leave it out")
