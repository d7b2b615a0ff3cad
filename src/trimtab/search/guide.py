"""A guide: what judges candidates while a model that it has never seen writes them."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from trimtab.config.models import ModelConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError
from trimtab.models.emulated import emulate
from trimtab.models.language_model import LanguageModel
from trimtab.models.open_model import ModelSource, load
from trimtab.models.served_model import CompletionsModel
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import Reward
from trimtab.search.chunk_beam import Search
from trimtab.search.guided_model import GuidedModel
from trimtab.search.value import ImplicitValue, RewardValue, Value, WeightedValue

Score: TypeAlias = Callable[[Sequence[str]], Sequence[float]]
"""Gets texts, prompt and response together, and gives one number for each, in a list, an array or a tensor; higher is
better."""
CBS = Search(width=4, successors=4, chunk=5)


class Guide:
    """Guides by log p_tuned - log p_untuned of a response (arXiv 2405.19262): high where tuning made it likelier.

    Args:
        tuned, untuned: two models with one vocabulary, each as `load` takes it.
        template: what the pair reads a string in, where they are given by name or as loaded models.

    `value(base)` is the value of candidates that `base` writes; None stands for one that shows its texts alone.

    Raises:
        AssetError, ModelError: a model cannot be loaded.
    """

    def __init__(self, tuned: ModelSource, untuned: ModelSource, *, template: str = "{prompt}") -> None:
        pair = load(tuned, template=template), load(untuned, template=template)
        self.pair: tuple[LanguageModel, LanguageModel] | None = pair
        self.value: Callable[[LanguageModel | None], Value] = lambda base: ImplicitValue(*pair, base)

    @classmethod
    def by_reward(cls, reward: Reward | Score) -> "Guide":
        """A guide that is a reward: one of trimtab's, or a function of texts."""
        scorer = FunctionReward(reward) if callable(reward) else reward
        return cls._of(lambda base: RewardValue(scorer))

    @classmethod
    def mean(cls, parts: Sequence[tuple["Guide", float]]) -> "Guide":
        """The weighted mean of several guides.

        Raises:
            ConfigurationError: there are none, or a weight is not above 0.
        """
        if not parts or any(weight <= 0 for _, weight in parts):
            raise ConfigurationError("a mean needs guides, each with a weight above 0: drop what has none")
        return cls._of(lambda base: WeightedValue([(guide.value(base), weight) for guide, weight in parts]))

    @classmethod
    def _of(cls, value: Callable[[LanguageModel | None], Value]) -> "Guide":
        guide = cls.__new__(cls)
        guide.pair, guide.value = None, value
        return guide

    def steer(
        self,
        base: ModelSource | CompletionsModel,
        *,
        search: Search = CBS,
        sampling: SamplingConfig | None = None,
        beta: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> GuidedModel:
        """`base` under this guide. Its weights do not change, and its vocabulary may differ from the guide's.

        Args:
            base: a model as `load` takes it, or one behind a completions endpoint (or a `ModelConfig` with one).
            search: base is Search(), best-of-N Search(successors=N), chunk-level beam search has all three numbers.
            sampling: temperature and filters that candidates are drawn with.
            beta: besides, add so much of the pair's difference of logits to the base's (emulated fine-tuning).
            stop: one or several texts that end a response, which is cut before them; they may hold special tokens.
            seed: of the random numbers: the same prompt gets the same answer, alone or among others.

        Raises:
            AssetError, ModelError: the base cannot be loaded.
            VocabularyError: `beta` with a base of another vocabulary.
            ConfigurationError: `beta` without a pair or without the base's logits; something else than texts in `stop`,
                or an empty one; a seed below 0.
        """
        ends = (stop,) if isinstance(stop, str | bytes) else tuple(stop or ())
        if isinstance(base, ModelConfig) and base.endpoint is not None:
            base = CompletionsModel.of(base)
        model = base if isinstance(base, CompletionsModel) else load(base)
        if beta is not None:
            if self.pair is None or isinstance(model, CompletionsModel):
                what = "a model whose logits are seen" if self.pair else "a guide of two models"
                raise ConfigurationError(f"beta adds logits and needs {what}: leave it out")
            model = emulate(model, [(*self.pair, beta)])
        value = self.value(None if isinstance(model, CompletionsModel) else model) if search.candidates > 1 else None
        return GuidedModel(model, value, search, sampling or SamplingConfig(), ends, seed)
