"""States of several searches side by side, so that one call of a value serves all of them; and starts in slices.

The values of this package join. A state of a plug-in's value does not, and is advanced for one search at a time.
"""

from collections.abc import Generator, Hashable, Sequence
from typing import Any

from trimtab.models.language_model import joined, side_by_side
from trimtab.records import Prompt
from trimtab.search.value import (
    ImplicitState,
    ImplicitValue,
    NoState,
    PerToken,
    StepState,
    StepValue,
    Value,
    WeightedState,
    WeightedValue,
)


def kind_of(state: Any) -> Hashable | None:
    """Two states of one value join where this is equal; None where they never do.

    >>> kind_of(NoState()) == kind_of(NoState())
    True
    """
    match state:
        case NoState():
            return ()
        case ImplicitState():
            return state.tuned.kind, state.untuned.kind
        case StepState():
            return kind_of(state.value)
        case WeightedState():
            kinds = tuple(map(kind_of, state.states))
            return None if None in kinds else kinds
    return None


def join(states: Sequence[Any]) -> Any:
    """One state of the rows of several states of one kind, one after the other."""
    first = states[0]
    match first:
        case ImplicitState():
            return ImplicitState(
                joined([state.tuned for state in states]),
                joined([state.untuned for state in states]),
                [response for state in states for response in state.responses],
                [row for state in states for row in state.ratios],
                [turn for state in states for turn in state.turns],
            )
        case StepState():
            return StepState(join([state.value for state in states]), [row for state in states for row in state.scores])
        case WeightedState():
            return WeightedState([join(parts) for parts in zip(*[state.states for state in states], strict=True)])
    return first


def starting(value: Value, prompts: Sequence[Prompt], room: int, tokens: int) -> Generator[None, None, Any]:
    """`value.start`, about `tokens` tokens of the prompts at a time: yields between them, returns the state."""
    match value:
        case ImplicitValue():
            texts = [prompt.text for prompt in prompts]
            pair = value.untuned, value.tuned  # in this order, since the tuned one may reuse what the other computes
            untuned, tuned = yield from side_by_side([model.starting(texts, room, tokens) for model in pair])
            turns = [value.turns(text) for text in texts]
            return ImplicitState(tuned, untuned, [[] for _ in texts], [[] for _ in texts], turns)
        case PerToken():
            return (yield from starting(value.value, prompts, room, tokens))
        case StepValue():
            return StepState((yield from starting(value.value, prompts, room, tokens)), [[] for _ in prompts])
        case WeightedValue():
            states = []
            for part in value.values:
                states.append((yield from starting(part, prompts, room, tokens)))
            return WeightedState(states)
    return value.start(prompts, room)
