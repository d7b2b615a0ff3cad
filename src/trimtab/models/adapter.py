"""Models with PEFT adapters: they compute PEFT's own forward pass, over the weights of the model below.

The code knows no method of PEFT by name. It notices what a method writes into the weights while it does so, and finds
out by trying whether a model can be read without the `PeftModel` around it.
"""

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

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
from trimtab.models.shared_weights import WriteGuard, view_of

PEFT_ERRORS = (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError)
"""The errors of PEFT, and of models that it has changed, where they do not fit each other."""
PEFT_LAYERS = (BaseTunerLayer, AuxiliaryTrainingWrapper)
ROWS_AT_ONCE = 128  # rows of an adapted embedding or output head that are computed at a time
_log = logging.getLogger(__name__)


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter of a folder, over the same weights: both models together hold one copy of them.

    Only tensors that the adapter itself changes, such as trained biases, are held twice.

    Raises:
        ValueError, among others of PEFT: the adapter does not fit, or does more than change layers.
    """
    adapted, changed = _adapted(model, folder)
    # PiSSA by random projections starts from other weights at every load (PEFT's documentation: convert it to LoRA)
    if changed and not alike(first_logits(_adapted(model, folder)[0]), first_logits(adapted), adapted):
        raise ValueError("it changes its model at random when it is loaded: convert it to plain LoRA")
    return adapted


def _adapted(model: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, bool]:
    """The adapted model, and whether the adapter has changed weights of its base model."""
    view = view_of(model)
    with WriteGuard(model) as guard:
        adapted = _read(view, folder)
        changed = guard.changed_in(adapted)
        guard.keep_in(adapted)
    return _without_wrapper(adapted), changed


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter of a folder added to its own weights.

    Raises:
        ValueError, among others of PEFT: the adapter does not fit, or cannot be merged.
    """
    expected = first_logits(load_adapter(model, folder))
    adapted = _read(model, folder)
    _untie(model)
    merged: PreTrainedModel = adapted.merge_and_unload().eval()
    head = merged.get_output_embeddings()
    if head is not None and head.weight is not merged.get_input_embeddings().weight:
        for config in (merged.config, merged.config.get_text_config()):
            config.tie_word_embeddings = False  # else a saved model would be read without its head
    for weight in merged.parameters():
        weight.requires_grad_(weight.is_floating_point())  # PEFT has frozen all but the adapter
    if not alike(first_logits(merged), expected, merged):
        raise ValueError("merged into the weights it computes something else")
    return merged


def adapted_view(model: PeftModel) -> PreTrainedModel:
    """A model that computes what this `PeftModel` does with its active adapters, over its weights.

    Raises:
        ModelError: its adapter does more than change layers.
    """
    try:
        return _without_wrapper(view_of(model).eval())
    except torch.OutOfMemoryError:
        raise
    except PEFT_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the adapter of the given PeftModel does more than change layers ({reason}): give a model without it"
        ) from None


def plain_view(model: PreTrainedModel) -> PreTrainedModel:
    """A model over the same weights: with adapters that `load_adapter` of transformers has put into it, and without
    those of a `PeftModel`, which puts its layers into the base model that it was given.

    Raises:
        ModelError: a `PeftModel` has changed the model's own weights, so the untuned model no longer exists.
    """
    view = view_of(model).eval()
    if not _has_peft_parts(view):
        return view
    if model._hf_peft_config_loaded:
        _fold_embeddings(view)
        return view
    settings = list(vars(view).pop("peft_config", {}).values())
    layers = [part for part in view.modules() if isinstance(part, PEFT_LAYERS)]
    merged = any(part.merged_adapters for part in layers)
    for part in layers:
        _replace(view, part, _plain(part))
    if merged or not settings or _has_peft_parts(view) or any(_writes_weights(view, config) for config in settings):
        kinds = ", ".join(sorted({config.peft_type.value for config in settings})) or "unknown"
        raise ModelError(
            f"{type(model).__name__} is the base of a PeftModel whose adapter ({kinds}) has changed its weights: "
            "load the untuned model apart, by its name"
        )
    _log.warning(
        "a %s is the base of a PeftModel, and is read without its adapter: give the PeftModel for the tuned model",
        type(model).__name__,
    )
    return view


def _read(model: PreTrainedModel, folder: Path) -> PeftModel:
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        adapted = with_adapter_beside(model, folder)
    _refuse_prompt_learning(adapted)
    if any("missing adapter keys" in str(remark.message) for remark in remarks):
        raise ValueError("its file lacks weights of layers that it adapts")
    # PEFT silently ignores weights of layers that the model does not have
    if unknown := set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu")).unexpected_keys:
        raise ValueError(f"it has {sorted(unknown)[0]}, and the model does not")
    return adapted.eval()


def _refuse_prompt_learning(adapted: PeftModel) -> None:
    if adapted.active_peft_config.is_prompt_learning:
        raise ValueError("it changes the prompt, not the weights")


def _without_wrapper(adapted: PeftModel) -> PreTrainedModel:
    """The adapted model itself, if it computes the same without the `PeftModel` around it."""
    _refuse_prompt_learning(adapted)
    model = adapted.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"it is on a {type(model).__name__}, which is no model of transformers")
    expected = first_logits(adapted)
    _fold_embeddings(model)
    with torch.inference_mode():  # a shorter text: fails where layers remember the length of the last one
        model.base_model(input_ids=torch.tensor([probe_ids(model)[:3]], device=input_device(model)), use_cache=False)
    if not alike(first_logits(model), expected, model):
        raise ValueError(f"{adapted.active_peft_config.peft_type.value} does more than change layers")
    if not alike(first_logits(model, tokens=3), expected[:3], model):
        raise ValueError("what it predicts depends on what follows")
    return model


def _has_peft_parts(model: torch.nn.Module) -> bool:
    return any(type(part).__module__.startswith("peft.") for part in model.modules())


def _writes_weights(model: PreTrainedModel, settings: PeftConfig) -> bool:
    """Whether an adapter of these settings writes into the weights of its model, when it is made or trained."""
    settings = copy.deepcopy(settings)
    settings.inference_mode = False
    trial = view_of(model)
    with torch.random.fork_rng(devices=[]), WriteGuard(model) as guard:
        get_peft_model(trial, settings)
        changed = guard.changed_in(trial)
    return changed or any(guard.holds(tensor) for tensor in trial.parameters() if tensor.requires_grad)


@torch.no_grad()
def _fold_embeddings(model: PreTrainedModel) -> None:
    """Replace an adapted input embedding or output head by a plain one with the same values, which decoding reads.

    Where the two are tied, the adapted one gets a matrix of its own.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(head, PEFT_LAYERS):
        _replace(model, head, _linear_of(head))
    if isinstance(embedding, PEFT_LAYERS):
        tokens = torch.arange(len(_plain(embedding).weight), device=input_device(model))
        rows = torch.cat([embedding(part) for part in tokens.split(ROWS_AT_ONCE)])
        _replace(model, embedding, torch.nn.Embedding.from_pretrained(rows))


def _linear_of(head: torch.nn.Module) -> torch.nn.Linear:
    """The linear map that an adapted output head computes: its images of the unit vectors, in float32 or wider."""
    weight = _plain(head).weight
    wide = copy.deepcopy(head).float() if weight.dtype in (torch.bfloat16, torch.float16) else head
    units = torch.eye(weight.shape[1], dtype=_plain(wide).weight.dtype, device=weight.device)
    bias = wide(units.new_zeros(1, len(units)))[0]
    images = torch.cat([wide(part) - bias for part in units.split(ROWS_AT_ONCE)])
    linear = torch.nn.Linear(len(units), len(bias), bias=bool(bias.any()), device="meta")
    linear.weight = torch.nn.Parameter(images.t().to(weight.dtype).contiguous(), requires_grad=False)
    if bias.any():
        linear.bias = torch.nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    return linear


def _plain(layer: torch.nn.Module) -> Any:
    """The model's own layer, inside all layers of PEFT."""
    while isinstance(layer, PEFT_LAYERS):
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
    return layer


def _untie(model: PreTrainedModel) -> None:
    """Give the output head its own memory where it is tied to the input embedding and one of the two is adapted."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper) and head.token_adapter.tied_adapter is not None:
        return  # both get the same new rows
    adapted = isinstance(embedding, PEFT_LAYERS) or isinstance(head, PEFT_LAYERS)
    if adapted and head is not None and (weight := _plain(head).weight) is _plain(embedding).weight:
        _plain(head).weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)


def _replace(model: torch.nn.Module, old: torch.nn.Module, new: torch.nn.Module) -> None:
    for parent in list(model.modules()):
        for name in [name for name, part in parent._modules.items() if part is old]:
            setattr(parent, name, new)
