"""Models with adapters of PEFT: what they compute is PEFT's own forward pass, over the weights of the model below.

No method of PEFT is known by name here. What a method writes into the weights is noticed while it does so, and whether
a model can be read without the `PeftModel` around it is found out by trying.

    >>> tuned = beside(untuned, Path("my-adapter"))    # of one copy of the weights     # doctest: +SKIP
"""

import copy
import logging
import warnings
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from peft.utils.other import AuxiliaryTrainingWrapper, TrainableTokensWrapper
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.cache_check import alike, first_logits
from trimtab.models.lm_head import probe_ids
from trimtab.models.placement import input_device, with_adapter_beside
from trimtab.models.shared_weights import Unwritten, view_of

UNFIT = (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError)
"""What PEFT and the models that it changes raise where they are not used as it expects."""
_log = logging.getLogger(__name__)
ROWS = 128  # of an adapted table or matrix, computed at a time


def beside(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter of a folder over the same weights: both models together hold one copy of them.

    Only tensors that the adapter itself changes, such as trained biases, are held twice.

    Raises:
        ValueError, among others of PEFT: the adapter does not fit, or does more than change layers.
    """
    tuned, changed = _beside(model, folder)
    # PiSSA by random projections starts from other weights at every load (PEFT's documentation: convert it to LoRA)
    if changed and not alike(first_logits(_beside(model, folder)[0]), first_logits(tuned), tuned):
        raise ValueError("it changes its model at random when it is loaded: convert it to plain LoRA")
    return tuned


def _beside(model: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, bool]:
    """The adapted model, and whether the adapter has changed weights that it was put on."""
    view = view_of(model)
    with Unwritten(model) as weights:
        adapted = _loaded(view, folder)
        changed = weights.changed_in(adapted)
        weights.keep_in(adapted)
    return _without_wrapper(adapted), changed


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter of a folder added to its own weights.

    Raises:
        ValueError, among others of PEFT: the adapter does not fit, or cannot be merged.
    """
    expected = first_logits(beside(model, folder))
    adapted = _loaded(model, folder)
    _untie(model)
    whole: PreTrainedModel = adapted.merge_and_unload().eval()
    if (head := whole.get_output_embeddings()) is not None and head.weight is not whole.get_input_embeddings().weight:
        for config in (whole.config, whole.config.get_text_config()):
            config.tie_word_embeddings = False  # else a saved model would be read without its head
    for weight in whole.parameters():
        weight.requires_grad_(weight.is_floating_point())  # as loaded: PEFT has frozen all but the adapter
    if not alike(first_logits(whole), expected, whole):
        raise ValueError("merged into the weights it computes something else")
    return whole


def adapted_view(model: PeftModel) -> PreTrainedModel:
    """A model that computes what this `PeftModel` does, with the adapters that are active in it, over its weights.

    Raises:
        ModelError: its adapter does more than change layers.
    """
    try:
        return _without_wrapper(view_of(model).eval())
    except torch.OutOfMemoryError:
        raise
    except UNFIT as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the adapter of the given PeftModel does more than change layers ({reason}): give a model without it"
        ) from None


def plain_view(model: PreTrainedModel) -> PreTrainedModel:
    """A model over the same weights: with the adapters that `load_adapter` of transformers has put into it, and
    without those of a `PeftModel`, which puts its layers into the very object that it is made of.

    Raises:
        ModelError: a `PeftModel` has changed the weights of the model themselves, so it is not there any more.
    """
    view = view_of(model).eval()
    if not _is_adapted(view):
        return view
    if model._hf_peft_config_loaded:
        _fold_embeddings(view)
        return view
    settings = list(vars(view).pop("peft_config", {}).values())
    layers = [part for part in view.modules() if isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    in_weights = any(part.merged_adapters for part in layers)
    for part in layers:
        own = part.get_base_layer() if isinstance(part, BaseTunerLayer) else part.original_module
        _replace(view, part, own)
    if in_weights or not settings or _is_adapted(view) or any(_writes(view, each) for each in settings):
        kinds = ", ".join(sorted({each.peft_type.value for each in settings})) or "unknown"
        raise ModelError(
            f"{type(model).__name__} is the base of a PeftModel whose adapter ({kinds}) has changed its weights: "
            "load the untuned model apart, by its name"
        )
    _log.warning(
        "a %s is the base of a PeftModel, and is read without its adapter: give the PeftModel for the tuned model",
        type(model).__name__,
    )
    return view


def _loaded(model: PreTrainedModel, folder: Path) -> PeftModel:
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        adapted = with_adapter_beside(model, folder)
    if adapted.active_peft_config.is_prompt_learning:
        raise ValueError("it changes the prompt, not the weights")
    if any("missing adapter keys" in str(remark.message) for remark in remarks):
        raise ValueError("its file lacks weights of layers that it adapts")
    # what it has no place for, PEFT leaves out without a word
    if unknown := set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu")).unexpected_keys:
        raise ValueError(f"it has {sorted(unknown)[0]}, and the model does not")
    return adapted.eval()


def _without_wrapper(adapted: PeftModel) -> PreTrainedModel:
    if adapted.active_peft_config.is_prompt_learning:
        raise ValueError("it changes the prompt, not the weights")
    model = adapted.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"it is on a {type(model).__name__}, which is no model of transformers")
    expected = first_logits(adapted)
    _fold_embeddings(model)
    _body_pass(model, tokens=3)  # fails where layers keep something of the whole text that was read before
    if not alike(first_logits(model), expected, model):
        raise ValueError(f"{adapted.active_peft_config.peft_type.value} does more than change layers")
    if not alike(first_logits(model, tokens=3), expected[:3], model):
        raise ValueError("what it predicts depends on what follows")
    return model


def _is_adapted(model: torch.nn.Module) -> bool:
    return any(type(part).__module__.startswith("peft.") for part in model.modules())


def _writes(model: PreTrainedModel, settings: PeftConfig) -> bool:
    """Whether an adapter of these settings writes into the weights of its model, when it is made or trained."""
    settings = copy.deepcopy(settings)
    settings.inference_mode = False
    trial = view_of(model)
    with torch.random.fork_rng(devices=[]), Unwritten(model) as weights:
        get_peft_model(trial, settings)
        changed = weights.changed_in(trial)
    return changed or any(weights.holds(tensor) for tensor in trial.parameters() if tensor.requires_grad)


@torch.no_grad()
def _fold_embeddings(model: PreTrainedModel) -> None:
    """Have an adapted input embedding or output head be a plain table or matrix, which decoding reads.

    Where the two are tied, the one that is adapted becomes a matrix of its own.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper):
        _replace(model, head, _matrix_of(head))
    if isinstance(table, BaseTunerLayer | AuxiliaryTrainingWrapper):
        tokens = torch.arange(len(_weight(table)), device=input_device(model))
        rows = torch.cat([table(part) for part in tokens.split(ROWS)])
        _replace(model, table, torch.nn.Embedding.from_pretrained(rows))


def _matrix_of(head: torch.nn.Module) -> torch.nn.Linear:
    """The linear map that an adapted one is, found by its images of the unit vectors, in float32 or wider."""
    weight = _weight(head)
    wide = copy.deepcopy(head).float() if weight.dtype in (torch.bfloat16, torch.float16) else head
    units = torch.eye(weight.shape[1], dtype=_weight(wide).dtype, device=weight.device)
    bias = wide(units.new_zeros(1, len(units)))[0]
    images = torch.cat([wide(part) - bias for part in units.split(ROWS)])
    made = torch.nn.Linear(len(units), len(bias), bias=bool(bias.any()), device="meta")
    made.weight = torch.nn.Parameter(images.t().to(weight.dtype).contiguous(), requires_grad=False)
    if bias.any():
        made.bias = torch.nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    return made


def _below(layer: torch.nn.Module) -> torch.nn.Module:
    """The layer of the model that layers of PEFT lie around."""
    while isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
    return layer


def _weight(layer: torch.nn.Module) -> torch.Tensor:
    """The weight of the layer that layers of PEFT lie around."""
    weight = _below(layer).weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _untie(model: PreTrainedModel) -> None:
    """Give an output head memory of its own where it is tied to the input embedding and one of the two is adapted."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper) and head.token_adapter.tied_adapter is not None:
        return  # both get the same new rows
    adapted = any(isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) for layer in (table, head))
    if adapted and head is not None and _weight(table) is _weight(head):
        _below(head).weight = torch.nn.Parameter(_weight(head).detach().clone(), requires_grad=False)


def _replace(model: torch.nn.Module, old: torch.nn.Module, new: torch.nn.Module) -> None:
    for parent in list(model.modules()):
        for name in [name for name, part in parent._modules.items() if part is old]:
            setattr(parent, name, new)


@torch.inference_mode()
def _body_pass(model: PreTrainedModel, tokens: int) -> None:
    ids = torch.tensor([probe_ids(model)[:tokens]], device=input_device(model))
    model.base_model(input_ids=ids, use_cache=False)
