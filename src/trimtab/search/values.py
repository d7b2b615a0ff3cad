"""The values that a decoder's `value:` may name: what judges candidates while a model decodes.

An entry imports what it needs when it is called, so an experiment file is read without loading torch.

    >>> VALUES["implicit"].words
    'the tuned/untuned pair'
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.plugins.registry import Entry, Registry

if TYPE_CHECKING:
    from trimtab.config.search import ValueConfig
    from trimtab.models.language_model import LanguageModel
    from trimtab.models.roles import Roles
    from trimtab.rewards.reward import Reward
    from trimtab.search.value import Value


@dataclass(frozen=True)
class ValueContext:
    """What a value is made of.

    `model` writes the candidates; None where it runs behind an endpoint, which shows their texts alone. `roles` holds
    the run's models. `gold` is the gold reward, None unless the entry's `uses_gold` asks for it.
    """

    config: "ValueConfig"
    model: "LanguageModel | None"
    roles: "Roles"
    gold: "Reward | None" = None


@dataclass(frozen=True, kw_only=True)
class ValueKind(Entry):
    """A value by name; `function` makes a `Value` (`search.value`) from a `ValueContext`.

    `uses_pair`: it compares the run's tuned and untuned model. `uses_gold`: it is judged by the reward that decoders
    are measured by, so it is an upper bound and no method. `sums_tokens`: it is already a sum over the response's
    tokens, so `steps` cannot sum it once more. Only FLOPs of the run's models and of its gold reward are counted.
    """

    uses_pair: bool = False
    uses_gold: bool = False
    sums_tokens: bool = False


VALUES: Registry[ValueKind] = Registry("value", arguments=("context",))


def implicit(context: ValueContext) -> "Value":
    """log p_tuned(y|x) - log p_untuned(y|x)."""
    from trimtab.search.value import ImplicitValue

    return ImplicitValue(context.roles["tuned"], context.roles["untuned"], context.model)


def reward(context: ValueContext) -> "Value":
    """The gold reward of the prompt and the response so far."""
    from trimtab.search.value import RewardValue

    assert context.gold is not None, "the entry asks for the gold reward"
    return RewardValue(context.gold)


VALUES.add(
    ValueKind(
        name="implicit",
        function=implicit,
        words="the tuned/untuned pair",
        paper="Zhou et al. 2024, arXiv 2405.19262, equation 5",
        limits="It needs the logits of both models; across vocabularies it reads the text.",
        uses_pair=True,
        sums_tokens=True,
    )
)
VALUES.add(
    ValueKind(
        name="reward",
        function=reward,
        words="the gold reward",
        limits="Decoders are measured by it: an upper bound, no method.",
        uses_gold=True,
    )
)
