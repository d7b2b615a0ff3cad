"""What a decoder's configuration samples from and judges by: models and values made of the run's roles and rewards.

>>> Judges(model, roles, gold).value([ValueConfig(by="reward")])                    # doctest: +SKIP
<trimtab.search.value.RewardValue object at ...>
"""

from collections.abc import Callable, Sequence

from trimtab.config.guide import DecoderConfig
from trimtab.config.search import ValueConfig
from trimtab.models.emulated import EmulatedModel, emulate
from trimtab.models.families import CausalModel
from trimtab.models.language_model import LanguageModel
from trimtab.models.roles import Roles
from trimtab.plugins.user_functions import named_function
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import Reward
from trimtab.search.combined_value import PerToken, StepValue, WeightedValue
from trimtab.search.value import ImplicitValue, RewardValue, Value


def emulated_model(config: DecoderConfig, roles: Roles) -> LanguageModel:
    """The model that a decoder samples from, with the terms of emulated fine-tuning that it asks for.

    Raises:
        VocabularyError: it adds logits of models with unlike vocabularies.
    """
    base = roles[config.model]
    if not config.terms:
        return base
    pairs = [
        (
            roles["tuned"] if term.tuned is None else roles.model(term.tuned),
            roles["untuned"] if term.untuned is None else roles.model(term.untuned),
            term.weight,
        )
        for term in config.terms
    ]
    return emulate(base, pairs)


def models_of(model: LanguageModel) -> list[CausalModel]:
    """The models that a language model of this run is a sum of, or itself."""
    if isinstance(model, EmulatedModel):
        return [each for part in model.models for each in models_of(part)]
    assert isinstance(model, CausalModel)
    return [model]


class Judges:
    """Makes values for candidates of `model`, None where it shows its texts alone.

    `gold` gives the gold reward, where a value asks for it.

    `rewards` are those that the values made so far use.
    """

    def __init__(self, model: LanguageModel | None, roles: Roles, gold: Callable[[], Reward] | None) -> None:
        self.model = model
        self.roles = roles
        self.gold = gold
        self.rewards: list[Reward] = []

    def value(self, configs: Sequence[ValueConfig]) -> Value:
        """The one value, or the weighted mean of several; the implicit one where none is named.

        Raises:
            ConfigurationError: a function is not there.
        """
        parts = [(self._single(config), config.weight) for config in configs or [ValueConfig()]]
        return parts[0][0] if len(parts) == 1 else WeightedValue(parts)

    def _single(self, config: ValueConfig) -> Value:
        value: Value
        if config.by == "implicit":
            value = ImplicitValue(self.roles["tuned"], self.roles["untuned"], self.model)
        elif config.steps is None:
            value = RewardValue(self._reward(config.by))
        else:
            value = StepValue(self._reward(config.by), config.steps)
        return PerToken(value) if config.per_token else value

    def _reward(self, by: str) -> Reward:
        if by == "reward":
            assert self.gold is not None, "a decoder that is guided by the gold reward is given it"
            reward = self.gold()
        else:
            reward = FunctionReward(named_function(by), by)
        if not any(reward is each for each in self.rewards):
            self.rewards.append(reward)
        return reward
