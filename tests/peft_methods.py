"""An adapter of each method that PEFT has, on a tiny Llama; one that a later PEFT adds is tried with its defaults."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import PreTrainedModel

LINEAR = {"target_modules": ["q_proj", "v_proj"]}
VIRTUAL = {"num_virtual_tokens": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "ADALORA": {**LINEAR, "total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 2, "adapter_layers": 1},
    "C3A": {**LINEAR, "block_size": 16},
    "CARTRIDGE": {**VIRTUAL, "num_frozen_tokens": 1},
    "FOURIERFT": {**LINEAR, "n_frequency": 16},
    "IA3": {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "MISS": {**LINEAR, "r": 4},
    "MULTITASK_PROMPT_TUNING": VIRTUAL,
    "PREFIX_TUNING": VIRTUAL,
    "PROMPT_TUNING": VIRTUAL,
    "PSOFT": {**LINEAR, "r": 4},
    "P_TUNING": VIRTUAL,
    "ROAD": {**LINEAR, "group_size": 16},
    "SHADOW": {"r": 4},
    "SHIRA": {**LINEAR, "r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [5, 9]},
    "VBLORA": {"target_modules": ["q_proj"], "num_vectors": 8, "vector_length": 8, "topk": 2},
    "WAVEFT": {**LINEAR, "n_frequency": 16},
}
"""What a method needs on so small a model; the others adapt two linear maps of each layer."""
METHODS = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING if kind.value != "XLORA")  # it mixes other adapters


def settings_of(method: str) -> PeftConfig:
    kind = next(made for name, made in PEFT_TYPE_TO_CONFIG_MAPPING.items() if name.value == method)
    fields = {field.name for field in dataclasses.fields(kind)}
    given = SETTINGS.get(method, {name: value for name, value in LINEAR.items() if name in fields})
    return kind(task_type="CAUSAL_LM", **given)


def trained(model: PreTrainedModel, settings: PeftConfig, scale: float = 0.1) -> PeftModel:
    """The model with an adapter, all of whose trained weights have moved."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad and weight.is_floating_point():
                weight.add_(scale * torch.randn_like(weight))
    return adapted.eval()


def saved(model: PreTrainedModel, settings: PeftConfig, folder: Path, scale: float = 0.1) -> Path:
    trained(model, settings, scale).save_pretrained(folder)
    return folder
