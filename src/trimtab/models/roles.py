"""The models of a run by the parts they play: the large frozen one, and the small one untuned and tuned.

Each is loaded when it is first asked for, and once.

    >>> roles = Roles({"large": ModelConfig(name="google/gemma-3-270m")}, Assets())
    >>> roles.config("large").name
    'google/gemma-3-270m'
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.models.encoding import continuation_ids
from trimtab.models.families import CausalModel, language_model_of
from trimtab.models.load import load_causal_lm, with_adapter
from trimtab.models.outline import check_rows, end_ids
from trimtab.models.served_model import CompletionsModel
from trimtab.models.tokenizer import load_tokenizer
from trimtab.models.vocabulary import Vocabulary

Role = Literal["large", "untuned", "tuned"]
_NO_WEIGHTS = ("template", "system", "adapter", "start_token")  # fields that change none of a model's weights


class Roles:
    """Models by their roles. Which model has a role can change (`play`).

    A model is loaded when it is first asked for, and its weights are shared by all parts that it plays.
    """

    def __init__(self, models: Mapping[Role, ModelConfig], assets: Assets, weights: "Weights | None" = None) -> None:
        self._assets = assets
        self._configs = dict(models)
        self._weights = Weights(assets) if weights is None else weights
        self._loaded: dict[Role, CausalModel] = {}
        self._others: dict[ModelConfig, CausalModel] = {}
        self._tokenizers: dict[Role, PreTrainedTokenizerBase] = {}
        self._served: dict[ModelConfig, CompletionsModel] = {}

    def play(self, models: Mapping[Role, ModelConfig]) -> None:
        """Give these roles to these models; models that had them before are freed."""
        for role, config in models.items():
            if self._configs.get(role) != config:
                self._loaded.pop(role, None)
                self._tokenizers.pop(role, None)
        self._configs |= models
        self._weights.keep_only([*self._configs.values(), *self._others])

    def config(self, role: Role) -> ModelConfig:
        """Where the model of a role lies, and how it is shown a prompt."""
        return self._configs[role]

    def __getitem__(self, role: Role) -> CausalModel:
        if role not in self._loaded:
            self._loaded[role] = load_language_model(self._configs[role], self._weights, name=role)
        return self._loaded[role]

    @property
    def served(self) -> CompletionsModel | None:
        """The large model behind its endpoint; None where it runs here."""
        large = self._configs.get("large")
        if large is None or large.endpoint is None:
            return None
        if large not in self._served:
            self._served[large] = CompletionsModel.of(large)
        return self._served[large]

    def model(self, config: ModelConfig) -> CausalModel:
        """A model without a role; the model of a role where the configuration is the same."""
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
    """Loads models and tokenizers from files, each once, even where several roles use it.

    A model with an adapter takes the weights of the same model without it. `device`: where they run (default: the first
    GPU, else the CPU).
    """

    def __init__(self, assets: Assets, device: torch.device | None = None) -> None:
        self._assets = assets
        self._device = device
        self._loaded: dict[ModelConfig, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}

    def of(self, config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model and the tokenizer of a configuration.

        Raises:
            AssetError: it cannot be found or trusted.
            ModelError: it is no causal language model.
        """
        plain = _weights_of(config)
        if plain not in self._loaded:
            self._loaded[plain] = load_causal_lm(plain, self._assets, self._device)
        model, tokenizer = self._loaded[plain]
        return (model if config.adapter is None else with_adapter(model, config.adapter, self._assets)), tokenizer

    def keep_only(self, configs: Iterable[ModelConfig]) -> None:
        """Forget all models but these."""
        kept = {_weights_of(config) for config in configs}
        self._loaded = {config: loaded for config, loaded in self._loaded.items() if config in kept}

    def drop(self) -> None:
        """Forget all models."""
        self._loaded.clear()


def _weights_of(config: ModelConfig) -> ModelConfig:
    """The configuration without the fields that change none of a model's weights."""
    return config.model_copy(update={name: ModelConfig.model_fields[name].default for name in _NO_WEIGHTS})


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
    check_rows(tokenizer, rows)
    ends = end_ids(model.generation_config, model.config._name_or_path or "the model")
    return Vocabulary(tokenizer, ends, start_token, chat=chat, system=system, rows=rows)
