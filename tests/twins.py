"""One model twice, once with recorded steps: whatever the two are asked for, they must answer alike."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from tiny import tokenizer
from trimtab.models.cached_model import CachedModel, CachedState
from trimtab.models.static_step import Record
from trimtab.models.vocabulary import Vocabulary

BUDGET = 1 << 30
TEXTS = ["I really", "This was the worst film that I have ever seen.", "Here is a movie"]
Pair = tuple[CachedModel, CachedModel]


def pair(make: Callable[[int], torch.nn.Module], record: Record, budget: int = BUDGET) -> Pair:
    """The same model twice; the second records its steps, the first never does."""
    plain, recorded = (CachedModel(make(0), Vocabulary(tokenizer())) for _ in range(2))
    plain._static = None
    recorded.record_steps(record, budget)
    return plain, recorded


@dataclass
class Twins:
    """A state of each model, always treated alike. `close` is what logits and log-probabilities may differ by."""

    models: Pair
    states: list[CachedState]
    close: float = 1e-12

    @classmethod
    def start(cls, models: Pair, room: int = 8, close: float = 1e-12) -> "Twins":
        return cls(models, [model.start(TEXTS, room) for model in models], close)

    def select(self, rows: list[int]) -> "Twins":
        return Twins(self.models, [state.select(rows) for state in self.states], self.close)

    def step(self, chance: random.Random) -> None:
        """Ask for the next logits and append random tokens."""
        ours, theirs = (model.next_logits(state) for model, state in zip(self.models, self.states, strict=True))
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < self.close
        tokens = [chance.randrange(320) for _ in self.states[0].ids]
        for state in self.states:
            state.append(tokens)

    def score(self, chance: random.Random) -> "Twins":
        """Fork, cut back and continue rows at random."""
        state = self.states[0]
        parents = [chance.randrange(len(state.ids)) for _ in range(chance.randrange(1, 5))]
        keep = [chance.randint(state.prompt_lengths[p], len(state.ids[p])) for p in parents]
        new = [[chance.randrange(320) for _ in range(chance.randrange(3))] for _ in parents]
        (ours, found), (theirs, expected) = (
            model.score(each, parents, keep, new) for model, each in zip(self.models, self.states, strict=True)
        )
        assert [len(row) for row in found] == [len(row) for row in expected]
        for row, other in zip(found, expected, strict=True):
            assert row == pytest.approx(other, abs=self.close)
        return Twins(self.models, [ours, theirs], self.close)


def random_calls(models: Pair, seed: int, close: float = 1e-12, calls: int = 30) -> None:
    """Ask, fork, cut back and drop at random, with up to three states alive at once."""
    chance = random.Random(seed)
    alive = [Twins.start(models, close=close)]
    for _ in range(calls):
        twins = chance.choice(alive)
        do = chance.randrange(4)
        if do == 0:
            size = len(twins.states[0].ids)
            alive.append(twins.select([chance.randrange(size) for _ in range(chance.randrange(1, 7))]))
        elif do == 1:
            alive.append(twins.score(chance))
        else:
            twins.step(chance)
        if len(alive) > 3:
            del alive[chance.randrange(3)]
