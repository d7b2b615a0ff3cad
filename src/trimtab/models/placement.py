"""Where the parts of a model lie: on one device, spread over several, or left in memory or on a disk until they run.

>>> input_device(model)                                                             # doctest: +SKIP
device(type='cpu')
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook
from accelerate.utils.modeling import has_offloaded_params
from peft import PeftModel
from transformers import PreTrainedModel

FETCHING = ("_hf_hook", "_old_forward", "forward")
"""What accelerate gives a module whose weights wait."""


def input_device(model: PreTrainedModel) -> torch.device:
    """The device that a model's token ids are wanted on."""
    embedding = model.get_input_embeddings()
    return _running(embedding) if offloaded(embedding) else embedding.weight.device


def offloaded(module: torch.nn.Module) -> bool:
    """Whether a module's own weights come to its device only while it runs."""
    return bool(has_offloaded_params(module))


def with_adapter_beside(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with PEFT's layers put into it, which lie where the layers around them run; all else stays in place.

    PEFT by itself takes layers whose weights wait for layers without numbers, and places such a model anew.

    Raises:
        ValueError, among others of PEFT: the adapter does not fit, or changes weights that wait.
    """
    placed = vars(model).pop("hf_device_map", None)
    try:
        with _as_if_there(model):
            return PeftModel.from_pretrained(model, folder, is_trainable=False, local_files_only=True)
    finally:
        if placed is not None:
            model.hf_device_map = placed


@contextlib.contextmanager
def _as_if_there(model: PreTrainedModel) -> Iterator[None]:
    """Inside, weights that wait seem to lie where they run; they take no memory, and all their numbers are 0.

    What fetches them is put aside, too: a layer that PEFT copies, to be trained whole, holds weights of its own.
    """
    hollow: list[tuple[torch.nn.Module, str, torch.nn.Parameter, torch.nn.Parameter]] = []
    aside: list[tuple[torch.nn.Module, dict[str, Any]]] = []
    for module in model.modules():
        if offloaded(module):
            for name, weight in module.named_parameters(recurse=False):
                zero = torch.zeros((), dtype=weight.dtype, device=_running(module))
                seeming = torch.nn.Parameter(zero.expand(weight.shape), requires_grad=False)
                hollow.append((module, name, weight, seeming))
                setattr(module, name, seeming)
            aside.append((module, {name: vars(module).pop(name) for name in FETCHING if name in vars(module)}))
    places = [seeming.data_ptr() for *_, seeming in hollow]
    try:
        yield
        found = zip(hollow, places, strict=True)
        if any(
            module._parameters[name] is not own or own.data_ptr() != place for (module, name, _, own), place in found
        ):
            raise ValueError("it changes weights that wait in memory or on a disk")
    finally:
        for module, name, weight, _ in hollow:
            setattr(module, name, weight)
        for module, fetching in aside:
            vars(module).update(fetching)


def _running(module: torch.nn.Module) -> torch.device:
    """The device that an offloaded module runs on."""
    hook = module._hf_hook
    assert isinstance(hook, AlignDevicesHook)
    return torch.device(hook.execution_device)
