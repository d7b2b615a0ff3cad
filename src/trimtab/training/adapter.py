"""Where a LoRA adapter goes: the linear maps of the uppermost layers.

With `top_layers` the gradient stops at the lowest adapted layer: autograd keeps no activations below it. That needs
gradient checkpointing to be off.
"""

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trimtab.config.training import LoraSettings
from trimtab.errors import ConfigurationError, ModelError
from trimtab.models.shared_layers import layer_stack


def lora_config(model: PreTrainedModel, settings: LoraSettings, part: str = "tune") -> LoraConfig:
    """LoRA on every linear map of the adapted layers; embeddings and output head stay as they are.

    `part` is the part of the configuration that has the settings.

    Raises:
        ConfigurationError: `top_layers` is more than the model has.
        ModelError: the model's layers cannot be found.
    """
    name, layers = layer_stack(model)
    if not layers:
        count = model.config.get_text_config().num_hidden_layers
        raise ModelError(f"{type(model).__name__} has no stack of {count} layers to adapt: set {part}.lora to null")
    top = len(layers) if settings.top_layers is None else settings.top_layers
    if top > len(layers):
        raise ConfigurationError(f"{part}.lora.top_layers is {top} and the model has {len(layers)} layers: give fewer")
    modules = [(path, module) for layer in layers for path, module in layer.named_modules()]
    linear = {path.rpartition(".")[2] for path, module in modules if isinstance(module, torch.nn.Linear | Conv1D)}
    if model._is_stateful:
        linear -= {"out_proj"}  # fused kernels of recurrent layers read its weights and bypass an adapter
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted(linear),
        layers_to_transform=list(range(len(layers) - top, len(layers))),
        layers_pattern=name.rpartition(".")[2],
        fan_in_fan_out=any(isinstance(module, Conv1D) for _, module in modules),
        task_type="CAUSAL_LM",
    )


def leave_casts_to_autocast(model: torch.nn.Module) -> None:
    """Let adapters use their inputs without a cast.

    PEFT widens each input to the adapter's float32, and autocast narrows it again right away: the same numbers, after
    two copies of every activation in every adapted map.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
