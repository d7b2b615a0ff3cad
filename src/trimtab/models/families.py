"""Which way a model of whatever family is decoded: through a cache of rows, or read anew each time.

The cache is for models whose layers remember keys and values. Whether a model reads through it as it does without is
found out by trying, before it decodes anything.

    >>> language_model_of(mistral, Vocabulary(tokenizer))                               # doctest: +SKIP
    <trimtab.models.cached_model.CachedModel object at ...>
    >>> language_model_of(mamba, Vocabulary(tokenizer))                                 # doctest: +SKIP
    <trimtab.models.uncached_model.UncachedModel object at ...>
"""

import logging
from typing import TypeAlias
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.agreement import percent
from trimtab.models.cache_check import alike, allowed_apart, first_logits, readings_apart
from trimtab.models.cached_model import CachedModel
from trimtab.models.lm_head import FoundHead, LMHead, check_numbers, find_head, probe_ids
from trimtab.models.shared_weights import hooked
from trimtab.models.uncached_model import UncachedModel
from trimtab.models.vocabulary import Vocabulary

CausalModel: TypeAlias = CachedModel | UncachedModel
"""A transformers model as a `LanguageModel`."""

CACHED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that remember keys and values, and mask by position alone."""
OWN_MASKS = ("attention_layers",)
"""Fields of configurations of models that mask by the cache's columns, beside what they are given (GPT-Neo)."""
# What a model raises that wants another cache, or other masks.
_UNFIT = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AssertionError)
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
    if not alike(first_logits(model, tokens=3), found.logits[:3], model):
        raise ModelError(
            f"{called or 'the model'} is no causal language model: what it predicts depends on what follows; name one"
        )
    if model not in _warned:
        _warned.add(model)
        what = f"{called}, a {model.config.model_type} model," if called else f"a {model.config.model_type} model"
        _log.warning("%s reads its texts anew for every token, which is slow: %s", what, reason)
    return UncachedModel(model, vocabulary, template, called, found.head, reason)


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


def _through_cache(
    model: PreTrainedModel, vocabulary: Vocabulary, template: str, name: str, head: LMHead, whole: torch.Tensor
) -> tuple[CachedModel | None, str]:
    """The model read through a cache; None and why, unless rows of unlike lengths that are forked, cut back and
    continued have the logits of one whole pass, `whole` [tokens, vocabulary]."""
    ids = probe_ids(model)
    try:
        cached = CachedModel(model, vocabulary, template, name, head)
        state = cached.start_ids([ids[:2], ids[:1]], room=len(ids))
        state, _ = cached.score(state, [0, 1], [2, 1], [ids[2:5], ids[1:2]])
        children, _ = cached.score(state, [0, 1, 0], [5, 2, 3], [ids[5:7], ids[2:3], []])
        found = cached.next_logits(children)
    except torch.OutOfMemoryError:
        raise
    except _UNFIT as error:
        said = (str(error).splitlines() or [""])[0][:160]
        return None, f"it cannot be read through a cache ({type(error).__name__}: {said})"
    apart = readings_apart(found, whole[[len(row) - 1 for row in children.ids], : cached.vocab_size])
    allowed, kind = allowed_apart(model)
    if apart > allowed:
        numbers = f"{percent(apart)} apart from those of one pass ({percent(allowed)} allowed in {kind})"
        return None, f"reading it through a cache gives logits {numbers}"
    cached.reset_work()
    return cached, ""
