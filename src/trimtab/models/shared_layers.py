"""Two models that differ in their upper layers only, such as a model and its LoRA-tuned self, share the lower ones.

Where the second model reads what the first has read, the hidden states between the layers that are equal and those that
are not are computed by the first and recalled by the second, which runs its upper layers alone. Every number stays what
it was, to the bit. Whether both read the same is seen at each prompt: by its ids.

    >>> untuned, tuned = share_lower_layers(untuned, tuned)                                    # doctest: +SKIP
    >>> untuned.next_logits(a), tuned.next_logits(b)    # always in this order          # doctest: +SKIP
"""

import copy
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from trimtab.models.cached_model import CachedModel
from trimtab.models.language_model import LanguageModel
from trimtab.models.placement import input_device, offloaded
from trimtab.models.shared_weights import hooked

NAMES = {
    "_name_or_path", "name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings",
}  # fmt: skip
"""Fields of configurations and models that change nothing of what layers compute; of types, the weights tell."""


def share_lower_layers(first: LanguageModel, second: LanguageModel) -> tuple[LanguageModel, LanguageModel]:
    """The same two models, where their lower layers are equal so that the second takes up what the first has computed.

    Of the returned models, the first must be asked first each time, and then the second the same. They may be shown a
    prompt in unlike ways, by a template, a system message or a tokenizer of their own: then each reads it for itself.
    Their FLOPs are counted with those of the given ones. Models that have nothing to share are returned as they are.
    """
    if not (isinstance(first, CachedModel) and isinstance(second, CachedModel)):
        return first, second
    depth = equal_layers(first.model, second.model) if first is not second else 0
    if depth == 0:
        return first, second
    passed: deque[torch.Tensor] = deque()
    prompts: list[list[int]] = []

    def remember(ids: Sequence[Sequence[int]]) -> bool:
        prompts[:] = [list(row) for row in ids]
        return True

    def same(ids: Sequence[Sequence[int]]) -> bool:
        return prompts == [list(row) for row in ids]

    skipped = sum(weight.numel() for layer in _stack(second.model)[1][:depth] for weight in layer.parameters())
    return (
        # what an error or Ctrl-C between the two has left of an earlier call is none of this one's
        first.with_body(recording_body(first.model, depth, passed), 0, passed.clear, remember),
        second.with_body(recalling_body(second.model, depth, passed), skipped, lambda: None, same),
    )


def equal_layers(first: PreTrainedModel, second: PreTrainedModel) -> int:
    """How many of the lowest layers of two models compute the same; 0 where anything beside their layers differs.

    Equal weights are not enough: configurations set how far a layer looks, how positions turn, how scores are capped.
    """
    if type(first) is not type(second) or (first.dtype, first.device) != (second.dtype, second.device):
        return 0
    if _settings(first) != _settings(second):
        return 0
    if any(offloaded(module) for model in (first, second) for module in model.modules()):
        return 0  # weights that are not there cannot be compared
    (name, layers), (_, others) = _stack(first), _stack(second)
    stack = name.removesuffix(".")
    if len(layers) != len(others) or not _equal(*(_parts(model.base_model, stack) for model in (first, second))):
        return 0
    alike = [_equal(_parts(ours), _parts(theirs)) for ours, theirs in zip(layers, others, strict=True)]
    depth = [*alike, False].index(False)
    return depth if depth > 0 and _hands_on_hidden(first) else 0


def _settings(model: PreTrainedModel) -> dict[str, Any]:
    """What a model computes by, beside its weights: all of its configuration but names and special tokens."""
    written = _without_names(model.config.to_dict())
    inner = model.config.get_text_config()
    return {**written, "attention": inner._attn_implementation, "experts": inner._experts_implementation}


def _without_names(written: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_names(value) if isinstance(value, dict) else value
        for name, value in written.items()
        if name not in NAMES
    }


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


def _parts(module: torch.nn.Module, but: str = "-") -> dict[str, torch.nn.Module]:
    """A module and all below it by name, without the one called `but` and what is below that."""
    return {name: part for name, part in module.named_modules() if name != but and not name.startswith(f"{but}.")}


def _equal(ours: Mapping[str, torch.nn.Module], theirs: Mapping[str, torch.nn.Module]) -> bool:
    return ours.keys() == theirs.keys() and all(_same(part, theirs[name]) for name, part in ours.items())


def _same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    """Whether two modules are of one kind, changed by nobody, with equal numbers and tensors of their own."""
    if type(ours) is not type(theirs) or hooked(ours) or hooked(theirs) or _numbers(ours) != _numbers(theirs):
        return False
    mine, other = ({**part._parameters, **part._buffers} for part in (ours, theirs))
    return mine.keys() == other.keys() and all(_equal_tensors(tensor, other[name]) for name, tensor in mine.items())


def _equal_tensors(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    if ours is None or theirs is None or ours.dtype != theirs.dtype or ours.device != theirs.device:
        return ours is theirs
    if type(ours) not in (torch.Tensor, torch.nn.Parameter):  # quantised: its numbers mean nothing without its scales
        return ours.data_ptr() == theirs.data_ptr()
    return torch.equal(ours, theirs)


def _numbers(module: torch.nn.Module) -> dict[str, float | str]:
    """What a module computes by and keeps outside of its tensors, such as the epsilon of a norm."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and name not in NAMES}
    return {name: value for name, value in public.items() if isinstance(value, int | float | str)}


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
    last._forward_hooks = OrderedDict(last._forward_hooks)
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
