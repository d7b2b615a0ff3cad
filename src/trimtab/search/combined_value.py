"""Values made of rewards and of other values: a score for every chunk, a value for each token, a weighted mean.

Each is itself a `Value`, so they nest.

    >>> worth = WeightedValue([(RewardValue(reward), 1.0), (PerToken(implicit), 2.0)])    # doctest: +SKIP
    >>> worth = StepValue(RewardValue(process_reward), "min")                             # doctest: +SKIP
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.records import Prompt
from trimtab.search.value import Candidate, Value

Combine = Literal["sum", "min"]
COMBINE: dict[Combine, Callable[[Sequence[float]], float]] = {"sum": sum, "min": min}


@dataclass
class StepState:
    """The rows of the value, and each row's scores so far, one a chunk."""

    value: Any
    scores: list[list[float]]

    def select(self, rows: Sequence[int]) -> "StepState":
        return StepState(self.value.select(rows), [self.scores[row] for row in rows])


class StepValue:
    """Another value at the end of every chunk, as process reward models are used (Lightman et al. 2023,
    arXiv 2305.20050): the sum or the minimum of what it gives to the response so far.
    """

    def __init__(self, value: Value, combine: Combine) -> None:
        self.value = value
        self.combine = COMBINE[combine]

    def start(self, prompts: Sequence[Prompt], room: int) -> StepState:
        return StepState(self.value.start(prompts, room), [[] for _ in prompts])

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return self.value.too_long(prompt, room)

    def advance(
        self, state: StepState, parents: Sequence[int], candidates: Sequence[Candidate]
    ) -> tuple[StepState, list[float]]:
        after, new = self.value.advance(state.value, parents, candidates)
        scores = [[*state.scores[row], score] for row, score in zip(parents, new, strict=True)]
        return StepState(after, scores), [self.combine(row) for row in scores]


class PerToken:
    """Another value divided by the number of the response's tokens, as the proposer's model counts them."""

    def __init__(self, value: Value) -> None:
        self.value = value

    def start(self, prompts: Sequence[Prompt], room: int) -> Any:
        return self.value.start(prompts, room)

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return self.value.too_long(prompt, room)

    def advance(self, state: Any, parents: Sequence[int], candidates: Sequence[Candidate]) -> tuple[Any, list[float]]:
        after, values = self.value.advance(state, parents, candidates)
        return after, [value / max(1, len(each.token_ids)) for value, each in zip(values, candidates, strict=True)]


@dataclass
class WeightedState:
    """A state for each of the values."""

    states: list[Any]

    def select(self, rows: Sequence[int]) -> "WeightedState":
        return WeightedState([state.select(rows) for state in self.states])


class WeightedValue:
    """The weighted mean of several values, `(value, weight)`; weights are above 0."""

    def __init__(self, parts: Sequence[tuple[Value, float]]) -> None:
        assert parts and all(weight > 0 for _, weight in parts), "a mean needs values with weights above 0"
        self.values = [value for value, _ in parts]
        self.weights = [weight / sum(weight for _, weight in parts) for _, weight in parts]

    def start(self, prompts: Sequence[Prompt], room: int) -> WeightedState:
        return WeightedState([value.start(prompts, room) for value in self.values])

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        reasons = (value.too_long(prompt, room) for value in self.values)
        return next((reason for reason in reasons if reason is not None), None)

    def advance(
        self, state: WeightedState, parents: Sequence[int], candidates: Sequence[Candidate]
    ) -> tuple[WeightedState, list[float]]:
        states, means = [], [0.0] * len(candidates)
        for value, weight, part in zip(self.values, self.weights, state.states, strict=True):
            after, worths = value.advance(part, parents, candidates)
            states.append(after)
            means = [mean + weight * worth for mean, worth in zip(means, worths, strict=True)]
        return WeightedState(states), means
