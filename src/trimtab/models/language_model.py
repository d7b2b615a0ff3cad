"""What the rest of the project asks of a language model, whatever it is made of.

A state holds rows of tokens. All tokens of a row but its last have been read into the cache; the last one is read when
its successor's distribution is first asked for. So siblings that fork after a token share the reading of it, and a row
can be cut back to any length without anything being computed again.

    >>> state = model.start(["I really"], room=2)                                       # doctest: +SKIP
    >>> token = int(model.next_logits(state)[0].argmax())                               # doctest: +SKIP
    >>> state.append([token])                                                           # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import torch

from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput


@dataclass(frozen=True)
class ModelSize:
    """Weights that each token is multiplied with, and those of the head, which each prediction needs besides."""

    body: float
    head: float


class DecodeState(Protocol):
    """Rows of tokens and what a model remembers of them. Rows are changed in place; `select` makes a new state."""

    ids: list[list[int]]

    @property
    def prompt_lengths(self) -> list[int]:
        """How many of each row's ids are its prompt."""
        ...

    def select(self, rows: Sequence[int]) -> Self:
        """A state of these rows, in this order: keep, drop, repeat and reorder are all this one call."""
        ...

    def append(self, tokens: Sequence[int]) -> None:
        """Put one token at the end of each row."""
        ...


State = TypeVar("State", bound=DecodeState)


class StatefulModel(Protocol[State]):
    """A causal language model with a prompt template and a tokenizer of its own.

    `flops` counts the forward FLOPs of all tokens read so far, 2 per weight and token (Kaplan et al. 2020, without the
    attention's own products); padding does not count.
    """

    vocabulary: Vocabulary
    name: str

    @property
    def flops(self) -> float: ...

    def start(self, prompts: Sequence[PromptInput], room: int) -> State:
        """A state of one row a prompt, with room for `room` more tokens a row (it grows where that is not enough)."""
        ...

    def next_logits(self, state: State) -> torch.Tensor:
        """Logits [rows, vocabulary] of the next token of each row; reads each row's last token.

        The tensor is valid until the model's next call.
        """
        ...

    def score(
        self, state: State, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[State, list[list[float]]]:
        """Fork rows, continue them, and give each new token's log-probability in nats.

        Child i is the first `keep[i]` tokens of row `parents[i]` (at least its prompt), continued by `tokens[i]`,
        which may be empty. Returns the children's state and one list of log-probabilities a child.
        """
        ...


LanguageModel: TypeAlias = StatefulModel[Any]
"""A language model whatever its state: callers pass states back to the model that made them."""


def sequence_log_probabilities(
    model: LanguageModel, prompts: Sequence[PromptInput], responses: Sequence[Sequence[int]], batch: int = 32
) -> list[float]:
    """log p(response | prompt) in nats, one sum a row: the masked sum that value, evaluation and tests share."""
    sums: list[float] = []
    for first in range(0, len(prompts), batch):
        group = responses[first : first + batch]
        state = model.start(prompts[first : first + batch], room=max(map(len, group), default=0))
        lengths = [len(row) for row in state.ids]
        _, rows = model.score(state, range(len(group)), lengths, group)
        sums.extend(sum(row) for row in rows)
    return sums
