"""Where a model's weights are: on one device, spread over several, or offloaded to memory or disk until they run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook
from accelerate.utils.modeling import has_offloaded_params
from peft import PeftModel
from transformers import PreTrainedModel

HOOK_ATTRIBUTES = ("_hf_hook", "_old_forward", "forward")
"""What accelerate sets on a module whose weights are offloaded."""


def input_device(model: PreTrainedModel) -> torch.device:
    """The device that a model's token ids must be on."""
    embedding = model.get_input_embeddings()
    return _execution_device(embedding) if offloaded(embedding) else embedding.weight.device


def offloaded(module: torch.nn.Module) -> bool:
    """Whether the weights of this module itself are on its device only while it runs."""
    return bool(has_offloaded_params(module))


def _execution_device(module: torch.nn.Module) -> torch.device:
    """The device that an offloaded module runs on."""
    hook = module._hf_hook
    assert isinstance(hook, AlignDevicesHook)
    return torch.device(hook.execution_device)


def with_adapter_beside(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with PEFT's layers put into it, each on the device of the layer that it adapts; nothing else is moved.

    PEFT by itself would make an adapter without numbers for an offloaded layer, and place the model again.

    Raises:
        ValueError, among others of PEFT: the adapter does not fit, or changes offloaded weights.
    """
    device_map = vars(model).pop("hf_device_map", None)
    try:
        with _weights_in_place(model):
            return PeftModel.from_pretrained(model, folder, is_trainable=False, local_files_only=True)
    finally:
        if device_map is not None:
            model.hf_device_map = device_map


@contextlib.contextmanager
def _weights_in_place(model: PreTrainedModel) -> Iterator[None]:
    """Inside, stand-ins for offloaded weights lie on the device that they run on; they are 0 and take no memory.

    The hooks that fetch weights are taken off, too: a layer that PEFT copies, to be trained whole, has its own weights.
    """
    replaced: list[tuple[torch.nn.Module, str, torch.nn.Parameter, torch.nn.Parameter]] = []
    hooks: list[tuple[torch.nn.Module, dict[str, Any]]] = []
    for module in filter(offloaded, model.modules()):
        for name, weight in module.named_parameters(recurse=False):
            zero = torch.zeros((), dtype=weight.dtype, device=_execution_device(module))
            stand_in = torch.nn.Parameter(zero.expand(weight.shape), requires_grad=False)
            replaced.append((module, name, weight, stand_in))
            setattr(module, name, stand_in)
        hooks.append((module, {name: vars(module).pop(name) for name in HOOK_ATTRIBUTES if name in vars(module)}))
    addresses = [stand_in.data_ptr() for *_, stand_in in replaced]
    try:
        yield
        for (module, name, _, stand_in), address in zip(replaced, addresses, strict=True):
            if module._parameters[name] is not stand_in or stand_in.data_ptr() != address:
                raise ValueError("it changes weights that wait in memory or on a disk")
    finally:
        for module, name, weight, _ in replaced:
            setattr(module, name, weight)
        for module, attributes in hooks:
            vars(module).update(attributes)
