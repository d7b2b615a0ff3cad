"""Two models that differ in their upper layers only, such as a model and its LoRA-tuned self, share the lower ones.

Where both models read the same token ids, the first computes the lower layers and records their output; the second
starts from that output and runs only its upper layers. Every number stays the same to the bit. The ids of each prompt
are compared to see whether both models read the same.
"""

import copy
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from trimtab.models.cached_model import CachedModel
from trimtab.models.language_model import LanguageModel
from trimtab.models.placement import input_device, offloaded
from trimtab.models.shared_weights import hooked

UNRELATED_FIELDS = {
    "_name_or_path", "name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings",
}  # fmt: skip
"""Fields of configurations and modules that have no effect on what layers compute. (`dtype` is compared by the
weights themselves.)"""


def share_lower_layers(first: LanguageModel, second: LanguageModel) -> tuple[LanguageModel, LanguageModel]:
    """The same two models; where their lower layers are equal, the second reuses what the first has computed.

    Each call of the first returned model must be followed by the same call of the second. Where a template, a system
    message or a tokenizer gives them different ids for a prompt, each runs all its layers. Their FLOPs are counted with
    those of the models passed in. Models without equal layers are returned unchanged.
    """
    if not (isinstance(first, CachedModel) and isinstance(second, CachedModel)):
        return first, second
    depth = equal_layers(first.model, second.model) if first is not second else 0
    if depth == 0:
        return first, second
    hidden_states: deque[torch.Tensor] = deque()
    prompts: list[list[int]] = []

    def remember(ids: Sequence[Sequence[int]]) -> bool:
        prompts[:] = [list(row) for row in ids]
        return True

    def same(ids: Sequence[Sequence[int]]) -> bool:
        return prompts == [list(row) for row in ids]

    idle = sum(weight.numel() for layer in _stack(second.model)[1][:depth] for weight in layer.parameters())
    return (
        # cleared first: an error or Ctrl-C between two calls may have left hidden states of the earlier one
        first.with_body(recording_body(first.model, depth, hidden_states), 0, hidden_states.clear, remember),
        second.with_body(recalling_body(second.model, depth, hidden_states), idle, lambda: None, same),
    )


def equal_layers(first: PreTrainedModel, second: PreTrainedModel) -> int:
    """How many of the lowest layers of two models compute the same; 0 where anything but their layers differs.

    Equal weights are not enough: the configuration sets attention windows, rotary embeddings and score caps.
    """
    if type(first) is not type(second) or (first.dtype, first.device) != (second.dtype, second.device):
        return 0
    if _settings(first) != _settings(second):
        return 0
    if any(offloaded(module) for model in (first, second) for module in model.modules()):
        return 0  # offloaded weights cannot be compared
    (stack, layers), (_, other_layers) = _stack(first), _stack(second)
    if len(layers) != len(other_layers) or not _equal(first.base_model, second.base_model, ignored=stack):
        return 0
    equal = [_equal(layer, other) for layer, other in zip(layers, other_layers, strict=True)]
    depth = [*equal, False].index(False)
    return depth if depth > 0 and _passes_hidden_states(first) else 0


def _settings(model: PreTrainedModel) -> dict[str, Any]:
    """All of the configuration but `UNRELATED_FIELDS`, with the implementations of attention and experts."""
    config = model.config.get_text_config()
    settings = _related(model.config.to_dict())
    return {**settings, "attention": config._attn_implementation, "experts": config._experts_implementation}


def _related(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _related(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name not in UNRELATED_FIELDS
    }


def untrained_layers(model: PreTrainedModel) -> int:
    """How many of the lowest layers are not trained; 0 where any weight outside of the layers is trained."""
    stack, layers = _stack(model)
    around = (weight for name, weight in model.base_model.named_parameters() if not name.startswith(f"{stack}."))
    if any(weight.requires_grad for weight in around):
        return 0
    trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
    return [*trained, True].index(True) if _passes_hidden_states(model) else 0


@torch.no_grad()
def _passes_hidden_states(model: PreTrainedModel) -> bool:
    """Whether a layer returns a tensor of hidden states and nothing else, as in all but a few older families."""
    _, layers = _stack(model)
    if not layers:
        return False
    is_tensor: list[bool] = []
    hook = layers[0].register_forward_hook(lambda layer, _, output: is_tensor.append(isinstance(output, torch.Tensor)))
    training = model.training
    model.eval()  # dropout would draw from the generator that training draws from
    model.base_model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=input_device(model)), use_cache=False)
    model.train(training)
    hook.remove()
    return is_tensor == [True]


def _equal(first: torch.nn.Module, second: torch.nn.Module, ignored: str = "-") -> bool:
    """Whether two modules and all their submodules are equal, apart from the submodule `ignored` and its own."""
    parts, other_parts = (
        {name: part for name, part in module.named_modules() if name != ignored and not name.startswith(f"{ignored}.")}
        for module in (first, second)
    )
    return parts.keys() == other_parts.keys() and all(_same(part, other_parts[name]) for name, part in parts.items())


def _same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two modules have the same class, no hooks, and equal attributes and tensors, submodules apart."""
    if type(first) is not type(second) or hooked(first) or hooked(second) or _scalars(first) != _scalars(second):
        return False
    tensors, other_tensors = ({**module._parameters, **module._buffers} for module in (first, second))
    return tensors.keys() == other_tensors.keys() and all(
        _equal_tensors(tensor, other_tensors[name]) for name, tensor in tensors.items()
    )


def _equal_tensors(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None or first.dtype != second.dtype or first.device != second.device:
        return first is second
    if type(first) not in (torch.Tensor, torch.nn.Parameter):  # quantised: codes mean nothing without their scales
        return first.data_ptr() == second.data_ptr()
    return torch.equal(first, second)


def _scalars(module: torch.nn.Module) -> dict[str, float | str]:
    """A module's public attributes that are numbers or strings, such as the epsilon of a norm."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in UNRELATED_FIELDS and isinstance(value, int | float | str)
    }


def layer_stack(model: PreTrainedModel) -> tuple[str, list[torch.nn.Module]]:
    """The stack of decoder layers: its name within the model's body, and its layers; empty where there is no stack."""
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.base_model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, list(module)
    return "", []


def _stack(model: PreTrainedModel) -> tuple[str, list[torch.nn.Module]]:
    """`layer_stack` where it is an attribute of the body itself; empty where it lies deeper."""
    name, layers = layer_stack(model)
    return ("", []) if "." in name else (name, layers)


def recording_body(model: PreTrainedModel, depth: int, hidden_states: deque[torch.Tensor]) -> torch.nn.Module:
    """A view of the model's body that appends the output of layer `depth` (counted from 1) to `hidden_states`.

    The view shares all weights. The hook is set on a copy of the layer, so that the model itself records nothing.
    """
    name, layers = _stack(model)
    last = copy.copy(layers[depth - 1])
    last._forward_hooks = OrderedDict(last._forward_hooks)
    last.register_forward_hook(lambda module, _, hidden: hidden_states.append(hidden))
    return _with_layers(model.base_model, name, [*layers[: depth - 1], last, *layers[depth:]])


def recalling_body(model: PreTrainedModel, depth: int, hidden_states: deque[torch.Tensor]) -> torch.nn.Module:
    """A view of the model's body that skips its lowest `depth` layers and takes their output from `hidden_states`."""

    # models call their layers with masks, positions and a cache, which a skipped layer ignores
    def recall(hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        assert hidden_states, "the second model with shared layers was called before the first"
        recalled = hidden_states.popleft()
        assert recalled.shape == hidden.shape, "two models with shared layers were called for different things"
        return recalled

    name, layers = _stack(model)
    idle = [copy.copy(layer) for layer in layers[:depth]]
    for layer in idle:
        layer.forward = lambda hidden, *args, **kwargs: hidden
    idle[-1].forward = recall
    return _with_layers(model.base_model, name, [*idle, *layers[depth:]])


def _with_layers(body: torch.nn.Module, name: str, layers: list[torch.nn.Module]) -> torch.nn.Module:
    """A copy of the body that shares all its parts, with `layers` as its stack of layers, the attribute `name`."""
    view = copy.copy(body)
    view._modules = {**body._modules, name: torch.nn.ModuleList(layers)}
    return view
