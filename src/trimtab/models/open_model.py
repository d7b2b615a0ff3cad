"""`trimtab.load`: a language model from a name, a configuration, or the objects of transformers."""

from pathlib import Path
from typing import TypeAlias

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.fields import CHAT, check_template
from trimtab.config.models import ModelConfig
from trimtab.errors import AssetError, ModelError
from trimtab.models.adapter import adapted_view, plain_view
from trimtab.models.families import language_model_of
from trimtab.models.language_model import LanguageModel
from trimtab.models.roles import load_language_model, vocabulary_of
from trimtab.models.tokenizer import load_tokenizer

ModelSource: TypeAlias = str | Path | ModelConfig | PreTrainedModel | PeftModel | LanguageModel
"""A folder or name, a configuration, a loaded model (with an adapter or without), or a result of `load`."""


def load(
    model: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    template: str = "{prompt}",
    assets: Assets | None = None,
) -> LanguageModel:
    """A language model that can be steered, or guide others.

    Args:
        model: a folder, a name in the path map, of the model hub or of trimtab's catalogue; a `ModelConfig`, which says
            more (adapter, dtype, ...); or a model of transformers or PEFT. Such a loaded model is used in place, not
            copied, in evaluation mode; an adapter is merged into a copy.
        tokenizer: the tokenizer of a loaded model; without it, the one beside the files that the model came from.
        template: the text that a string prompt is put into, with `{prompt}` in it; `chat` is the tokenizer's own chat
            template. A `ModelConfig` has its own.
        assets: where names are looked up (default: the usual places).

    Raises:
        ConfigurationError: the template has no place for the prompt.
        AssetError: a name cannot be found or trusted.
        ModelError: it is not a causal language model, or its tokenizer is missing or belongs to another model.

    >>> load("google/gemma-3-270m", template="Here is a movie review from imdb: {prompt}")  # doctest: +SKIP
    >>> load(model, tokenizer)                                                              # doctest: +SKIP
    """
    check_template(template)
    if isinstance(model, str | Path):
        model = ModelConfig(name=str(model), template=template)
    if isinstance(model, ModelConfig):
        if model.endpoint is not None:
            raise ModelError(
                f"{model.name} is behind an endpoint and gives texts alone: only Guide.steer takes it, as a base"
            )
        return load_language_model(model, assets or Assets())
    if isinstance(model, torch.nn.Module):
        view = _view_of(model)
        vocabulary = vocabulary_of(view, tokenizer or _tokenizer_of(view, assets), None, chat=template == CHAT)
        return language_model_of(view, vocabulary, template)
    if isinstance(model, PreTrainedTokenizerBase):
        raise _not_a_model(model)
    return model


def _view_of(model: torch.nn.Module) -> PreTrainedModel:
    """A model over the weights of a loaded one, which itself stays unchanged."""
    model = model._modules.get("_orig_mod") or model  # as torch.compile gives it
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel) or not inner.can_generate() or inner.config.is_encoder_decoder:
        raise _not_a_model(inner)
    return adapted_view(model) if isinstance(model, PeftModel) else plain_view(model)


def _not_a_model(value: object) -> ModelError:
    kind = type(value).__name__
    return ModelError(f"a {kind} is no causal language model of transformers: give the model first, then its tokenizer")


def _tokenizer_of(model: PreTrainedModel, assets: Assets | None) -> PreTrainedTokenizerBase:
    name = str(model.name_or_path)
    if name:
        try:
            return load_tokenizer((assets or Assets()).model(name))
        except (AssetError, ModelError):  # whatever the reason, the remedy is the same
            pass
    raise ModelError(f"the tokenizer of {name or 'a model without a name'} is not found: give trimtab.load both")
