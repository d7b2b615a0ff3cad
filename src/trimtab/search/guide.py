"""A guide: what judges candidates while a model that it has never seen writes them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from trimtab.assets.resolve import Assets
from trimtab.config.fields import check_template
from trimtab.config.models import ModelConfig
from trimtab.config.reward import RewardConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError, check_finite, check_type, shown
from trimtab.models.emulated import emulate
from trimtab.models.language_model import LanguageModel
from trimtab.models.open_model import ModelSource, Opener, load
from trimtab.models.served_model import CompletionsModel
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.load import load_reward
from trimtab.rewards.reward import Reward, Scorer
from trimtab.search.chunk_beam import Search
from trimtab.search.guided_model import GuidedModel
from trimtab.search.value import ImplicitValue, RewardValue, Value, WeightedValue

Score: TypeAlias = Callable[[Sequence[str]], Sequence[float]]
"""Gets texts, prompt and response together, and gives one number for each, in a list, an array or a tensor; higher is
better."""
CBS = Search(width=4, successors=4, chunk=5)
"""The search of `Guide.steer` where none is given: the paper's settings for sentiment (arXiv 2405.19262)."""
_log = logging.getLogger(__name__)


class Guide:
    """Guides by log p_tuned - log p_untuned of a response (arXiv 2405.19262): high where tuning made it likelier.

    Args:
        tuned, untuned: two models with one vocabulary, each as `load` takes it.
        template: what the pair reads a string in, where they are given by name or as loaded models. By default what
            the tuned model was tuned with, where it says so (`trimtab save` writes it beside the weights); the untuned
            one is read as the tuned one is.

    `value(base)` is the value of candidates that `base` writes; None stands for one that shows its texts alone.

    Raises:
        ConfigurationError: the template has no place for the prompt.
        AssetError, ModelError: a model cannot be loaded.
    """

    def __init__(self, tuned: ModelSource, untuned: ModelSource, *, template: str | None = None) -> None:
        if template is not None:
            check_template(template)
        assets, given = Assets(), {} if template is None else {"template": template}
        first = Opener(assets, given).open(tuned)
        read = {"template": first.template, "system": first.vocabulary.system}
        read["start_token"] = first.vocabulary.start_token
        second = Opener(assets, given, {name: text for name, text in read.items() if text is not None}).open(untuned)
        if (first.template, first.vocabulary.system) != (second.template, second.vocabulary.system):
            _log.warning("%s reads prompts in another template than %s: give one to both", first.name, second.name)
        pair = first, second
        self.pair: tuple[LanguageModel, LanguageModel] | None = pair
        self.value: Callable[[LanguageModel | None], Value] = lambda base: ImplicitValue(*pair, base)
        self._words = f"Guide({first!r}, {second!r})"

    def __repr__(self) -> str:
        return self._words

    @classmethod
    def by_reward(cls, reward: Reward | Score | RewardConfig | str | Mapping[str, Any]) -> "Guide":
        """A guide that is a reward: one of trimtab's or your own, a function of texts, or what `load_reward` takes,
        such as `mine.py:function`.

        Raises:
            ConfigurationError: it is none of these, or a function that is not there or takes other arguments.
            AssetError, ModelError: a reward model cannot be loaded.
        """
        scorer: Scorer
        if isinstance(reward, RewardConfig | str | Mapping):
            scorer = load_reward(reward)
        elif isinstance(reward, Scorer) and not isinstance(reward, type):
            scorer = reward
        else:
            scorer = FunctionReward(reward)
        return cls._of(lambda base: RewardValue(scorer), f"Guide.by_reward({scorer!r})")

    @classmethod
    def mean(cls, parts: Sequence[tuple["Guide", float]]) -> "Guide":
        """The weighted mean of several guides.

        Raises:
            ConfigurationError: there are none, or something else than a guide and a weight above 0.
        """
        check_type("parts", parts, Sequence, "a list of guides, each with its weight, such as [(guide, 1.0)]")
        if not parts:
            raise ConfigurationError("a mean needs guides, each with a weight above 0: give at least one")
        for part in parts:
            if not isinstance(part, Sequence) or len(part) != 2 or not isinstance(part[0], Guide):
                raise ConfigurationError(
                    f"parts holds {shown(part)}: give a guide and its weight, such as (guide, 1.0)"
                )
            check_finite("a weight", part[1])
            if part[1] <= 0:
                raise ConfigurationError(f"a weight is {part[1]}: a mean needs guides, each with a weight above 0")
        words = ", ".join(f"({guide!r}, {weight:g})" for guide, weight in parts)
        weighted = list(parts)
        return cls._of(
            lambda base: WeightedValue([(guide.value(base), weight) for guide, weight in weighted]),
            f"Guide.mean([{words}])",
        )

    @classmethod
    def _of(cls, value: Callable[[LanguageModel | None], Value], words: str) -> "Guide":
        guide = cls.__new__(cls)
        guide.pair, guide.value, guide._words = None, value, words
        return guide

    def steer(
        self,
        base: ModelSource | CompletionsModel,
        *,
        search: Search = CBS,
        sampling: SamplingConfig | Mapping[str, Any] | None = None,
        beta: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> GuidedModel:
        """`base` under this guide. Its weights do not change, and its vocabulary may differ from the guide's.

        Args:
            base: a model as `load` takes it, or one behind a completions endpoint (or a `ModelConfig` with one).
            search: base is Search(), best-of-N Search(successors=N), chunk-level beam search has all three numbers.
                The default is chunk-level beam search: Search(width=4, successors=4, chunk=5), 16 candidates a prompt.
            sampling: temperature and filters that candidates are drawn with (default: temperature 0.7, top-k 50).
            beta: besides, add so much of the pair's difference of logits to the base's (emulated fine-tuning).
            stop: one or several texts that end a response, which is cut before them; they may hold special tokens.
            seed: of the random numbers: the same prompt gets the same answer, alone or among others.

        Raises:
            AssetError, ModelError: the base cannot be loaded.
            VocabularyError: `beta` with a base of another vocabulary.
            ConfigurationError: an argument is none that can be used; `beta` without a pair or without the base's
                logits; something else than texts in `stop`, or an empty one; a seed below 0.
        """
        check_type("search", search, Search, "a trimtab.Search, such as Search(width=4, successors=4, chunk=5)")
        check_type("sampling", sampling, SamplingConfig | Mapping | None, "a trimtab.SamplingConfig")
        check_type("stop", stop, str | Sequence | None, "a text, or a list of texts")
        drawn = SamplingConfig(**sampling) if isinstance(sampling, Mapping) else sampling or SamplingConfig()
        ends = (stop,) if isinstance(stop, str | bytes) else tuple(stop or ())
        if isinstance(base, ModelConfig) and base.endpoint is not None:
            base = CompletionsModel.of(base)
        model = base if isinstance(base, CompletionsModel) else load(base)
        if beta is not None:
            check_finite("beta", beta)
            if self.pair is None or isinstance(model, CompletionsModel):
                what = "a model whose logits are seen" if self.pair else "a guide of two models"
                raise ConfigurationError(f"beta adds logits and needs {what}: leave it out")
            model = emulate(model, [(*self.pair, beta)])
        value = self.value(None if isinstance(model, CompletionsModel) else model) if search.candidates > 1 else None
        return GuidedModel(model, value, search, drawn, ends, seed)
