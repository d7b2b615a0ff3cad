"""Two models that differ in their upper layers only, such as a model and its LoRA-tuned self, share the lower ones.

Whatever one of the two reads, the other reads next. So the hidden states between the layers that are equal and those
that are not are computed by the first and recalled by the second, which runs its upper layers alone. Every number stays
what it was, to the bit. Knows nothing of search or values.

    >>> untuned, tuned = share_trunk(untuned, tuned)                                    # doctest: +SKIP
    >>> untuned.next_logits(a), tuned.next_logits(b)    # always in this order          # doctest: +SKIP
"""

import copy
from collections import OrderedDict, deque
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from trimtab.models.language_model import LanguageModel
from trimtab.models.placement import input_device, offloaded
from trimtab.models.transformers_model import TransformersModel


def share_trunk(first: LanguageModel, second: LanguageModel) -> tuple[LanguageModel, LanguageModel]:
    """The same two models, where their lower layers are equal so that the second takes up what the first has computed.

    Of the returned models, the first must be asked first each time, and then the second exactly the same. Their FLOPs
    are counted with those of the given ones. Models that have nothing to share are returned as they are.
    """
    if not (isinstance(first, TransformersModel) and isinstance(second, TransformersModel)):
        return first, second
    alike = first.template == second.template and first.vocabulary.fingerprint == second.vocabulary.fingerprint
    depth = equal_layers(first.model, second.model) if alike and first is not second else 0
    if depth == 0:
        return first, second
    passed: deque[torch.Tensor] = deque()
    skipped = sum(weight.numel() for layer in _stack(second.model)[1][:depth] for weight in layer.parameters())
    return (
        # what an error or Ctrl-C between the two has left of an earlier call is none of this one's
        first.with_body(recording_body(first.model, depth, passed), begin=passed.clear),
        second.with_body(recalling_body(second.model, depth, passed), skipped),
    )


def equal_layers(first: PreTrainedModel, second: PreTrainedModel) -> int:
    """How many of the lowest layers of two models are equal; 0 where anything beside their layers differs."""
    if type(first) is not type(second) or (first.dtype, first.device) != (second.dtype, second.device):
        return 0
    if any(offloaded(module) for model in (first, second) for module in model.modules()):
        return 0  # weights that are not there cannot be compared
    (name, layers), (_, others) = _stack(first), _stack(second)
    beside = [{n: w for n, w in _tensors(m.base_model).items() if not n.startswith(name)} for m in (first, second)]
    if len(layers) != len(others) or not _equal(*beside):
        return 0
    alike = [_equal(_tensors(ours), _tensors(theirs)) for ours, theirs in zip(layers, others, strict=True)]
    return [*alike, False].index(False) if _hands_on_hidden(first) else 0


def untrained_layers(model: PreTrainedModel) -> int:
    """How many of the lowest layers no gradient is asked for; 0 where one is asked for anything beside the layers."""
    name, layers = _stack(model)
    if any(weight.requires_grad for n, weight in model.base_model.named_parameters() if not n.startswith(name)):
        return 0
    trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
    return [*trained, True].index(True) if _hands_on_hidden(model) else 0


@torch.no_grad()
def _hands_on_hidden(model: PreTrainedModel) -> bool:
    """Whether a layer gives hidden states and nothing else to the next, as all but a few older families' do."""
    given: list[bool] = []
    _, layers = _stack(model)
    if not layers:
        return False
    hook = layers[0].register_forward_hook(lambda module, _, output: given.append(isinstance(output, torch.Tensor)))
    training = model.training
    model.eval()  # dropout would draw from the generator that training draws from
    model.base_model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=input_device(model)), use_cache=False)
    model.train(training)
    hook.remove()
    return given == [True]


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its weights, and what else it computes with: the configuration's angles of positions are buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        weight.device == theirs[name].device and torch.equal(weight, theirs[name]) for name, weight in ours.items()
    )


def layer_stack(model: PreTrainedModel) -> tuple[str, list[torch.nn.Module]]:
    """The stack of decoder layers: its name within the model's body, and its layers, none where there is no stack."""
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.base_model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, list(module)
    return "", []


def _stack(model: PreTrainedModel) -> tuple[str, list[torch.nn.Module]]:
    """The stack that is a part of the model's body itself, its name with a dot; none where it lies deeper."""
    name, layers = layer_stack(model)
    return ("", []) if not layers or "." in name else (f"{name}.", layers)


def recording_body(model: PreTrainedModel, depth: int, passed: deque[torch.Tensor]) -> torch.nn.Module:
    """A view of the model's body whose lowest `depth` layers leave what the last of them gives in `passed`."""
    name, layers = _stack(model)
    last = copy.copy(layers[depth - 1])
    last._forward_hooks = OrderedDict()
    last.register_forward_hook(lambda module, given, hidden: passed.append(hidden))
    return _with_layers(model.base_model, name, [*layers[: depth - 1], last, *layers[depth:]])


def recalling_body(model: PreTrainedModel, depth: int, passed: deque[torch.Tensor]) -> torch.nn.Module:
    """A view of the model's body that takes the output of its lowest `depth` layers from `passed`."""

    def recall(hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        assert passed, "the second model of a shared trunk was asked before the first"
        recalled = passed.popleft()
        assert recalled.shape == hidden.shape, "the two models of a shared trunk were asked for different things"
        return recalled

    name, layers = _stack(model)
    idle = [copy.copy(layer) for layer in layers[:depth]]
    for layer in idle:
        layer.forward = lambda hidden, *args, **kwargs: hidden
    idle[-1].forward = recall
    return _with_layers(model.base_model, name, [*idle, *layers[depth:]])


def _with_layers(body: torch.nn.Module, name: str, layers: list[torch.nn.Module]) -> torch.nn.Module:
    """A body that shares everything with the given one but the list of its layers."""
    view = copy.copy(body)
    view._modules = {**body._modules, name.removesuffix("."): torch.nn.ModuleList(layers)}
    return view
