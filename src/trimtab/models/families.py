"""Which way a model of whatever family is decoded: through a cache of rows, or read anew each time.

The cache is for models whose layers remember keys and values. Whether a model reads through it as it does without is
found out by trying, before it decodes anything.

    >>> language_model_of(mistral, Vocabulary(tokenizer))                               # doctest: +SKIP
    <trimtab.models.transformers_model.TransformersModel object at ...>
    >>> language_model_of(mamba, Vocabulary(tokenizer))                                 # doctest: +SKIP
    <trimtab.models.rereading.RereadingModel object at ...>
"""

import logging
import math
from typing import TypeAlias
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.agreement import dtype_name, percent
from trimtab.models.head import FoundHead, Head, check_numbers, find_head, probe_ids
from trimtab.models.large import quantised_as
from trimtab.models.placement import input_device
from trimtab.models.rereading import RereadingModel
from trimtab.models.transformers_model import TransformersModel
from trimtab.models.view import hooked
from trimtab.models.vocabulary import Vocabulary

CausalModel: TypeAlias = TransformersModel | RereadingModel
"""A transformers model as a `LanguageModel`."""

CACHED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that remember keys and values, and mask by position alone."""
OWN_MASKS = ("attention_layers",)
"""Fields of configurations of models that mask by the cache's columns, beside what they are given (GPT-Neo)."""
# What a model raises that wants another cache, or other masks.
_UNFIT = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AssertionError)
APART, APART_OTHERWISE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.1}, 0.25
"""How far logits through a cache may be from those of one pass, by the type that the model computes in.

In 16 bits another batch and another order of reading round otherwise in every layer, and so do LLM.int8() and other
quantised weights. Measured, relative to the spread of a row's logits: bfloat16 1 to 3 % for small random models of all
families, GPT-2's shape and Gemma-3-270M; 3 % (AVX2) and 12 % (AVX512-BF16) for SmolLM2-135M; 11 % where logits lie
about -100 and spread by 0.8 alone. float16 0.1 to 0.5 %, and 2 %; float32 below 3e-5. A wrong mask, position or token
makes 20 to 150 %.
"""
_warned: WeakSet[PreTrainedModel] = WeakSet()
_log = logging.getLogger(__name__)


def language_model_of(
    model: PreTrainedModel, vocabulary: Vocabulary, template: str = "{prompt}", name: str | None = None
) -> CausalModel:
    """The model as a `LanguageModel`; of one that is read anew for every token a warning says why, once.

    Raises:
        ModelError: it is no causal language model, or its logits are not numbers.
    """
    called = name or str(model.config._name_or_path)
    for config in (model.config, model.config.get_text_config()):
        config.return_dict = True  # outputs are read by their names
    found = find_head(model)
    if found.head is None:
        check_numbers(model)
    elif hooked(model) and "_original_forward" not in vars(model):  # which accelerate's mixed precision keeps
        # a few tokens do not show all that they do
        found = FoundHead(None, "hooks, or a forward put in the place of its own, may change its logits", found.logits)
    reason = cannot_fork(model) or found.reason
    if not reason:
        assert found.head is not None
        before = model.config._attn_implementation
        cached, reason = _through_cache(model, vocabulary, template, called, found.head, found.logits)
        if cached is not None:
            return cached
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)
    if _apart(_shorter_pass(model, tokens=3), found.logits[:3]) > _allowed(model)[0]:
        raise ModelError(
            f"{called or 'the model'} is no causal language model: what it predicts depends on what follows; name one"
        )
    if model not in _warned:
        _warned.add(model)
        what = f"{called}, a {model.config.model_type} model," if called else f"a {model.config.model_type} model"
        _log.warning("%s reads its texts anew for every token, which is slow: %s", what, reason)
    return RereadingModel(model, vocabulary, template, called, found.head, reason)


def cannot_fork(model: PreTrainedModel) -> str:
    """Why what the model remembers of a text cannot be forked and cut back, by its configuration; empty if it can."""
    written = model.config.get_text_config().to_dict()
    others = sorted(set(written.get("layer_types") or []) - CACHED_LAYERS)
    if others:
        return f"layers of kind {', '.join(others)} cannot be forked and cut back"
    if model._is_stateful:
        return "its layers keep a running state of the text, which cannot be forked and cut back"
    if any(name in written for name in OWN_MASKS):
        return "its layers mask by where a token stands in a cache, not by its position"
    return ""


@torch.inference_mode()
def _shorter_pass(model: PreTrainedModel, tokens: int) -> torch.Tensor:
    """Logits of the first of the tokens that a model is tried with, [tokens, vocabulary]."""
    ids = torch.tensor([probe_ids(model)[:tokens]], device=input_device(model))
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def _through_cache(
    model: PreTrainedModel, vocabulary: Vocabulary, template: str, name: str, head: Head, whole: torch.Tensor
) -> tuple[TransformersModel | None, str]:
    """The model read through a cache; None and why, unless rows of unlike lengths that are forked, cut back and
    continued have the logits of one whole pass, `whole` [tokens, vocabulary]."""
    ids = probe_ids(model)
    try:
        cached = TransformersModel(model, vocabulary, template, name, head)
        state = cached.start_ids([ids[:2], ids[:1]], room=len(ids))
        state, _ = cached.score(state, [0, 1], [2, 1], [ids[2:5], ids[1:2]])
        children, _ = cached.score(state, [0, 1, 0], [5, 2, 3], [ids[5:7], ids[2:3], []])
        found = cached.next_logits(children)
    except torch.OutOfMemoryError:
        raise
    except _UNFIT as error:
        said = (str(error).splitlines() or [""])[0][:160]
        return None, f"it cannot be read through a cache ({type(error).__name__}: {said})"
    apart = _apart(found, whole[[len(row) - 1 for row in children.ids], : cached.rows])
    allowed, kind = _allowed(model)
    if apart > allowed:
        numbers = f"{percent(apart)} apart from those of one pass ({percent(allowed)} allowed in {kind})"
        return None, f"reading it through a cache gives logits {numbers}"
    cached.reset_work()
    return cached, ""


def _allowed(model: PreTrainedModel) -> tuple[float, str]:
    """How far two ways of reading a model may be apart, and the name of the weights' type that this follows from."""
    bits = quantised_as(model)
    if bits is not None:
        return APART_OTHERWISE, bits
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    coarsest = max(types, key=lambda dtype: torch.finfo(dtype).eps)  # a head or norms may be wider than the layers
    return APART.get(coarsest, APART_OTHERWISE), dtype_name(coarsest)


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far the distributions of two sets of logits are apart, relative to their spread, [rows, vocabulary] both.

    A constant that is added to all logits of a row changes no distribution, and no part of this.
    """
    found, expected = found.double(), expected.to(found.device, torch.float64)
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return math.inf
    count = finite.sum(-1, keepdim=True).clamp(min=1)
    found, expected = (
        logits - logits.sum(-1, keepdim=True) / count
        for logits in (torch.where(finite, found, 0.0), torch.where(finite, expected, 0.0))
    )
    differ, spread = ((found - expected) * finite).norm(), (expected * finite).norm()
    return float(differ / spread) if differ > 0 else 0.0
