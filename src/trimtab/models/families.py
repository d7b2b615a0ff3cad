"""Chooses how a model of any family is decoded: through a cache of rows, or by reading each text again for every token.

The cache is for models whose layers remember keys and values. Before a model decodes anything, it is tried whether it
computes the same through the cache as without.
"""

import logging
from typing import TypeAlias
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.agreement import percent
from trimtab.models.cache_check import alike, allowed_distance, distance, first_logits
from trimtab.models.cached_model import CachedModel
from trimtab.models.lm_head import LMHead, find_head, probe_ids
from trimtab.models.shared_weights import hooked
from trimtab.models.uncached_model import UncachedModel
from trimtab.models.vocabulary import Vocabulary

CausalModel: TypeAlias = CachedModel | UncachedModel
"""A transformers model as a `LanguageModel`."""

CACHED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that remember keys and values, and mask by position alone."""
CACHE_MASK_FIELDS = ("attention_layers",)
"""Fields of configurations whose models mask by the cache's columns, besides the mask that they are given (GPT-Neo)."""
CACHE_ERRORS = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AssertionError)
"""What a model raises that needs another cache, or other masks."""
_warned: WeakSet[PreTrainedModel] = WeakSet()
_log = logging.getLogger(__name__)


def language_model_of(
    model: PreTrainedModel, vocabulary: Vocabulary, template: str = "{prompt}", name: str | None = None
) -> CausalModel:
    """The model as a `LanguageModel`; if it cannot be decoded through the cache, one warning says why.

    Raises:
        ModelError: it is no causal language model, or its logits are not numbers.
    """
    name = name or str(model.config._name_or_path)
    for config in (model.config, model.config.get_text_config()):
        config.return_dict = True  # outputs are read by their names
    probe = find_head(model)
    head, reason = probe.head, cannot_fork(model) or probe.reason
    if head is not None and hooked(model) and "_original_forward" not in vars(model):
        # a few tokens do not show all that hooks do; those of accelerate's mixed precision keep `_original_forward`
        head, reason = None, reason or "hooks, or a forward that replaces its own, may change its logits"
    if head is not None and not reason:
        attention = model.config._attn_implementation
        cached, reason = _through_cache(model, vocabulary, template, name, head, probe.logits)
        if cached is not None:
            return cached
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
    if not alike(first_logits(model, tokens=3), probe.logits[:3], model):
        raise ModelError(
            f"{name or 'the model'} is no causal language model: what it predicts depends on what follows; name one"
        )
    if model not in _warned:
        _warned.add(model)
        kind = f"a {model.config.model_type} model"
        _log.warning("%s is decoded without a cache, which is slow: %s", f"{name}, {kind}," if name else kind, reason)
    return UncachedModel(model, vocabulary, template, name, head, reason)


def cannot_fork(model: PreTrainedModel) -> str:
    """Why, by its configuration, the model's memory of a text cannot be forked and cut back; empty if it can."""
    settings = model.config.get_text_config().to_dict()
    other_layers = sorted(set(settings.get("layer_types") or []) - CACHED_LAYERS)
    if other_layers:
        return f"layers of kind {', '.join(other_layers)} cannot be forked and cut back"
    if model._is_stateful:
        return "its layers keep a running state of the text, which cannot be forked and cut back"
    if any(name in settings for name in CACHE_MASK_FIELDS):
        return "its layers mask by where a token stands in a cache, not by its position"
    return ""


def _through_cache(
    model: PreTrainedModel, vocabulary: Vocabulary, template: str, name: str, head: LMHead, one_pass: torch.Tensor
) -> tuple[CachedModel | None, str]:
    """The model decoded through a cache; or None and the reason, unless rows of unlike lengths that are forked, cut
    back and continued have the logits of one pass without a cache, `one_pass` [tokens, vocabulary]."""
    ids = probe_ids(model)
    try:
        cached = CachedModel(model, vocabulary, template, name, head)
        state = cached.start_ids([ids[:2], ids[:1]], room=len(ids))
        state, _ = cached.score(state, [0, 1], [2, 1], [ids[2:5], ids[1:2]])
        children, _ = cached.score(state, [0, 1, 0], [5, 2, 3], [ids[5:7], ids[2:3], []])
        logits = cached.next_logits(children)
    except torch.OutOfMemoryError:
        raise
    except CACHE_ERRORS as error:
        message = (str(error).splitlines() or [""])[0][:160]
        return None, f"it cannot be read through a cache ({type(error).__name__}: {message})"
    apart = distance(logits, one_pass[[len(row) - 1 for row in children.ids], : cached.vocab_size])
    allowed, kind = allowed_distance(model)
    if apart > allowed:
        numbers = f"{percent(apart)} apart from those of one pass ({percent(allowed)} allowed in {kind})"
        return None, f"reading it through a cache gives logits {numbers}"
    cached.reset_work()
    return cached, ""
