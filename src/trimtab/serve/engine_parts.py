"""What a decoder of a request runs on: its model, its value, and the models whose work is counted for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from trimtab.config.guide import DecoderConfig
from trimtab.errors import ConfigurationError
from trimtab.models.families import CausalModel
from trimtab.models.language_model import LanguageModel
from trimtab.models.roles import Roles
from trimtab.rewards.reward import Reward
from trimtab.search.decoders import decoder_value, emulated_model
from trimtab.search.value import Value


@dataclass(frozen=True, eq=False)
class DecoderParts:
    """`model` writes candidates, `value` judges them (None: a decoder without candidates to choose from).

    `guides`: the models that the value reads with; `gold`: the gold reward, where it judges.
    """

    model: LanguageModel
    value: Value | None
    guides: tuple[CausalModel, ...] = ()
    gold: Reward | None = None

    def guide_work(self) -> tuple[int, float]:
        """Tokens that the guides have read so far, and FLOPs of guides and gold reward."""
        tokens = sum(guide.tokens_read for guide in self.guides)
        return tokens, sum(guide.flops for guide in self.guides) + (0.0 if self.gold is None else self.gold.flops)


MAX_KEPT = 64  # decoders whose parts are kept; clients may make up others without end


class PartsOf(Protocol):
    """Gives equal decoders the same objects, so that their rows are decoded together."""

    def __call__(self, decoder: DecoderConfig) -> DecoderParts:
        """The parts of a decoder, made where they are missing: for the thread that owns the models."""

    def known(self, decoder: DecoderConfig) -> DecoderParts | None:
        """The parts if they are made. For any thread: no request has to wait for a step to hear of them."""


class RoleParts:
    """The parts of decoders over models by their roles; each model and each value is made once.

    `gold` loads the gold reward, and is called where a decoder is first judged by it; None: there is no such reward.
    """

    def __init__(self, roles: Roles, gold: Callable[[], Reward] | None = None) -> None:
        self._roles, self._load_gold = roles, gold
        self._gold: Reward | None = None
        self._models: dict[object, LanguageModel] = {}
        self._parts: dict[object, DecoderParts] = {}

    def __call__(self, decoder: DecoderConfig) -> DecoderParts:
        """The parts of a decoder.

        Raises:
            ConfigurationError: it is no decoder of single requests, or judged by a gold reward that is not there.
            VocabularyError: models whose logits are added have different vocabularies.
        """
        if (known := self.known(decoder)) is not None:
            return known
        if decoder.model == "large" and self._roles.served is not None:
            raise ConfigurationError("the large model is behind an endpoint, which cannot be served once more")
        if len(self._parts) >= MAX_KEPT:  # those that run keep theirs
            self._parts.clear()
            self._models.clear()
        key = model_key, _ = _keys(decoder)
        if model_key not in self._models:
            self._models[model_key] = emulated_model(decoder, self._roles)
        return self._parts.setdefault(key, self._made(decoder, self._models[model_key]))

    def known(self, decoder: DecoderConfig) -> DecoderParts | None:
        check_decoder(decoder)
        return self._parts.get(_keys(decoder))

    def _made(self, decoder: DecoderConfig, model: LanguageModel) -> DecoderParts:
        gold = self._gold_reward() if decoder.guided_by_gold else None
        if not decoder.guided:
            return DecoderParts(model, None)
        value = decoder_value(decoder, model, self._roles, gold)
        guides = (self._roles["tuned"], self._roles["untuned"]) if decoder.guided_by_pair else ()
        return DecoderParts(model, value, guides, gold)

    def _gold_reward(self) -> Reward:
        if self._load_gold is None:
            raise ConfigurationError("value: reward needs a gold reward, and none is served: guide by another value")
        if self._gold is None:
            self._gold = self._load_gold()
        return self._gold


def _keys(decoder: DecoderConfig) -> tuple[object, object]:
    """What decoders that write with one model have in common, and what those have that one value judges, too."""
    return (decoder.model, decoder.terms), decoder.value if decoder.guided else None


def check_decoder(decoder: DecoderConfig) -> None:
    """Raise ConfigurationError where a decoder is made for runs over many prompts, not for one request."""
    for name, value in (("best_of", decoder.best_of), ("n_best", decoder.n_best), ("budget", decoder.budget)):
        if value is not None:
            raise ConfigurationError(f"{name} has no meaning for a single request: leave it out")
