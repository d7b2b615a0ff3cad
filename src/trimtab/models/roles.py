"""The models of a run by the parts they play: the large frozen one, and the small one untuned and tuned.

Each is loaded when it is first asked for, and once.

    >>> roles = Roles(experiment, Assets())                                             # doctest: +SKIP
    >>> roles["untuned"].vocabulary.decode_response([], [28, 1057])                     # doctest: +SKIP
"""

from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.models import ModelConfig
from trimtab.errors import ModelError
from trimtab.models.encoding import continuation_ids
from trimtab.models.families import CausalModel, language_model_of
from trimtab.models.load import load_causal_lm, load_tokenizer, with_adapter
from trimtab.models.served_model import CompletionsModel
from trimtab.models.vocabulary import Vocabulary

Role = Literal["large", "untuned", "tuned"]
_NO_WEIGHTS = ("template", "system", "adapter", "start_token")  # fields that change none of a model's weights


class Roles:
    """The tuned model can be asked for once `tuned_is` has said where it lies, or where the experiment names one; the
    large one where there is one."""

    def __init__(self, experiment: Experiment, assets: Assets) -> None:
        self._assets = assets
        self._configs: dict[Role, ModelConfig] = {"untuned": experiment.small}
        if experiment.large is not None:
            self._configs["large"] = experiment.large
        if experiment.guide.tuned is not None:
            self._configs["tuned"] = experiment.guide.tuned
        self._weights = Weights(assets)
        self._loaded: dict[Role, CausalModel] = {}
        self._others: dict[ModelConfig, CausalModel] = {}
        self._tokenizers: dict[Role, PreTrainedTokenizerBase] = {}

    def tuned_is(self, folder: Path) -> None:
        """The tuned model lies in `folder`; it is shown prompts as the untuned one is."""
        self._configs["tuned"] = self._lying_in(folder)

    def untuned_is(self, folder: Path) -> None:
        """What all take for the untuned model lies in `folder`, and not where the configuration says."""
        self._configs["untuned"] = self._lying_in(folder)

    def config(self, role: Role) -> ModelConfig:
        """Where the model of a role lies, and how it is shown a prompt."""
        return self._configs[role]

    def _lying_in(self, folder: Path) -> ModelConfig:
        own = {"name": str(folder), "adapter": None, "allow_pickle": False}
        return self._configs["untuned"].model_copy(update=own)

    def __getitem__(self, role: Role) -> CausalModel:
        if role not in self._loaded:
            self._loaded[role] = load_language_model(self._configs[role], self._weights, name=role)
        return self._loaded[role]

    @cached_property
    def served(self) -> CompletionsModel | None:
        """The large model behind its endpoint; None where it runs here."""
        large = self._configs.get("large")
        return None if large is None or large.endpoint is None else CompletionsModel.of(large)

    def model(self, config: ModelConfig) -> CausalModel:
        """A further model, which plays no part of its own; the model of a role where it is the same."""
        for role in ("large", "untuned"):
            if self._configs.get(role) == config:
                return self[role]
        if config not in self._others:
            self._others[config] = load_language_model(config, self._weights)
        return self._others[config]

    def encode_response(self, role: Role, text: str) -> list[int]:
        """The tokens of a text that continues a prompt; the model itself is not loaded for it."""
        if role in self._loaded:
            return self._loaded[role].vocabulary.encode_response(text)
        if role not in self._tokenizers:
            config = self._configs[role]
            self._tokenizers[role] = load_tokenizer(self._assets.model(config.name, allow_pickle=config.allow_pickle))
        return continuation_ids(self._tokenizers[role], [text])[0]

    def flops(self) -> dict[str, float]:
        """Forward FLOPs so far of each model that has been loaded, by role, or by name where it has none."""
        others = {config.name: 0.0 for config in self._others}
        for config, model in self._others.items():
            others[config.name] += model.flops
        return {**others, **{role: model.flops for role, model in self._loaded.items()}}

    def drop(self) -> None:
        """Forget all models, so that their memory can be used again."""
        self._loaded.clear()
        self._others.clear()
        self._weights.drop()


class Weights:
    """Models and tokenizers as they lie in files, each loaded once, however many parts it plays.

    A model with an adapter takes the weights of the same model without it.
    """

    def __init__(self, assets: Assets) -> None:
        self._assets = assets
        self._loaded: dict[ModelConfig, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}

    def of(self, config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model and the tokenizer of a configuration.

        Raises:
            AssetError: it cannot be found or trusted.
            ModelError: it is no causal language model.
        """
        plain = config.model_copy(update={name: ModelConfig.model_fields[name].default for name in _NO_WEIGHTS})
        if plain not in self._loaded:
            self._loaded[plain] = load_causal_lm(plain, self._assets)
        model, tokenizer = self._loaded[plain]
        return (model if config.adapter is None else with_adapter(model, config.adapter, self._assets)), tokenizer

    def drop(self) -> None:
        """Forget all models that nobody else holds."""
        self._loaded.clear()


def load_language_model(config: ModelConfig, source: Assets | Weights, name: str | None = None) -> CausalModel:
    """The model of a configuration, ready to decode; `name` is what messages call it (default: its own name).

    Raises:
        AssetError: it cannot be found or trusted.
        ModelError: it is no causal language model, or its tokenizer is not its own.
    """
    model, tokenizer = (source if isinstance(source, Weights) else Weights(source)).of(config)
    vocabulary = vocabulary_of(model, tokenizer, config.start_token, chat=config.chat, system=config.system)
    return language_model_of(model, vocabulary, config.template, name=name or config.name)


def vocabulary_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    start_token: str | None,
    *,
    chat: bool = False,
    system: str | None = None,
) -> Vocabulary:
    """The tokenizer with every token that the model's generation configuration says ends a text.

    With `chat` the model is shown conversations, with the message `system` where they bring none.

    Raises:
        ModelError: there is no end token, or one that is no id, or the tokenizer has more tokens than the model.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"{tokenizer.name_or_path or 'the model'} has a tokenizer of {tokenizer.vocab_size} tokens and a model of "
            f"{rows}: save the model's own tokenizer beside it"
        )
    return Vocabulary(tokenizer, _end_ids(model), start_token, chat=chat, system=system, rows=rows)


def _end_ids(model: PreTrainedModel) -> list[int]:
    """The ids that the model's generation configuration says end a text."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    if isinstance(ends, torch.Tensor):
        ends = ends.tolist()
    ids = [each for each in (ends if isinstance(ends, list | tuple) else [ends]) if each is not None]
    if wrong := [each for each in ids if not isinstance(each, int) or isinstance(each, bool)]:
        name = model.config._name_or_path or "the model"
        raise ModelError(
            f"the generation configuration of {name} says that {wrong[0]!r} ends a text: eos_token_id is an id, or a "
            "list of ids"
        )
    return ids
