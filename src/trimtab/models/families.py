"""Which way a model of whatever family is decoded: through a cache of rows, or read anew each time.

The cache is for models whose layers remember keys and values. Whether a model reads through it as it does without is
found out by trying, before it decodes anything. Knows nothing of prompts or search.

    >>> language_model_of(mistral, Vocabulary(tokenizer))                               # doctest: +SKIP
    <trimtab.models.transformers_model.TransformersModel object at ...>
    >>> language_model_of(mamba, Vocabulary(tokenizer))                                 # doctest: +SKIP
    <trimtab.models.rereading.RereadingModel object at ...>
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.head import check_numbers, head_of
from trimtab.models.large import quantised_as
from trimtab.models.placement import input_device
from trimtab.models.rereading import RereadingModel
from trimtab.models.transformers_model import TransformersModel
from trimtab.models.vocabulary import Vocabulary

CausalModel: TypeAlias = TransformersModel | RereadingModel
"""A transformers model as a `LanguageModel`."""

CACHED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that remember keys and values, and mask by position alone."""
OWN_MASKS = ("attention_layers",)
"""Fields of configurations of models that mask by the cache's columns, beside what they are given (GPT-Neo)."""
# What a model raises that wants another cache, or other masks.
_UNFIT = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AssertionError)
_log = logging.getLogger(__name__)


def language_model_of(
    model: PreTrainedModel, vocabulary: Vocabulary, template: str = "{prompt}", name: str | None = None
) -> CausalModel:
    """The model as a `LanguageModel`; one that has to be read anew for every token says so once, in a warning.

    Raises:
        ModelError: it is no causal language model, or its logits are not numbers.
    """
    called = name or str(model.config._name_or_path)
    head, whole = head_of(model), _whole_pass(model)
    if head is None:
        check_numbers(model)
    before = model.config._attn_implementation
    if head is not None and remembers_keys(model):
        if _reads_alike(lambda: TransformersModel(model, vocabulary, template, called, head), whole):
            return TransformersModel(model, vocabulary, template, called, head)
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)
    if not _alike(_whole_pass(model, tokens=3), whole[:3], quantised_as(model) is None):
        raise ModelError(f"{called} is no causal language model: what it predicts depends on what follows; name one")
    _warn_once(model.config.model_type)
    return RereadingModel(model, vocabulary, template, called, head)


def remembers_keys(model: PreTrainedModel) -> bool:
    """Whether all its layers remember keys and values, as its configuration says."""
    written = model.config.get_text_config().to_dict()
    kinds = set(written.get("layer_types") or [])
    return not model._is_stateful and kinds <= CACHED_LAYERS and not any(name in written for name in OWN_MASKS)


@cache
def _warn_once(family: str) -> None:
    _log.warning(
        "a %s model reads its texts anew for every token, which is slow: its memory of them cannot be forked and cut "
        "back, or its logits are not its output embedding's",
        family,
    )


def _probe(model: PreTrainedModel) -> list[int]:
    return list(range(min(8, model.get_input_embeddings().weight.shape[0])))


@torch.inference_mode()
def _whole_pass(model: PreTrainedModel, tokens: int = 8) -> torch.Tensor:
    """Logits of a few tokens in one pass without a cache, [tokens, vocabulary]."""
    ids = torch.tensor([_probe(model)[:tokens]], device=input_device(model))
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def _reads_alike(make: Callable[[], TransformersModel], whole: torch.Tensor) -> bool:
    """Whether rows of unlike lengths, forked, cut back and continued, have the logits of one whole pass."""
    try:
        model = make()
        ids = _probe(model.model)
        state = model.start_ids([ids[:2], ids[:1]], room=len(ids))
        state, _ = model.score(state, [0, 1], [2, 1], [ids[2:5], ids[1:2]])
        children, _ = model.score(state, [0, 1, 0], [5, 2, 3], [ids[5:7], ids[2:3], []])
        found = model.next_logits(children)
    except torch.OutOfMemoryError:
        raise
    except _UNFIT:
        return False
    return _alike(found, whole[[len(row) - 1 for row in children.ids]], quantised_as(model.model) is None)


def _alike(found: torch.Tensor, expected: torch.Tensor, whole_weights: bool) -> bool:
    """Whether logits are the same but for rounding, [rows, vocabulary] both."""
    expected = expected.to(found.device, torch.float64)
    told = expected.isfinite()
    differ, spread = (found.double() - expected)[told].norm(), (expected[told] - expected[told].mean()).norm()
    # what is rounded to few bits moves with the shape of a batch, by a tenth of the spread at the most
    exact = whole_weights and found.dtype in (torch.float32, torch.float64)
    return bool(differ <= (1e-3 if exact else 0.25) * spread)
