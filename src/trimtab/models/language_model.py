"""What the rest of the project asks of a language model, whatever it is made of.

A state holds rows of tokens. All tokens of a row but its last have been read into the cache; the last one is read when
its successor's distribution is first asked for. So siblings that fork after a token share the reading of it, and a row
can be cut back to any length without anything being computed again.

    >>> state = model.start(["I really"], room=2)                                       # doctest: +SKIP
    >>> token = int(model.next_logits(state)[0].argmax())                               # doctest: +SKIP
    >>> state.append([token])                                                           # doctest: +SKIP
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import torch

from trimtab.errors import ModelError
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

    def append(self, tokens: Sequence[int | None]) -> None:
        """Put one token at the end of each row; None leaves a row as it is.

        What `next_logits` gives for a row without a new token means nothing.
        """
        ...


State = TypeVar("State", bound=DecodeState)


class StatefulModel(Protocol[State]):
    """A causal language model with a prompt template and a tokenizer of its own.

    `flops` counts the forward FLOPs of all tokens read so far, 2 per weight and token (Kaplan et al. 2020, without the
    attention's own products); padding does not count. `rows` is the number of ids that it can read and predict: ids
    from there on may be in its tokenizer and have no embedding. `context` is how many tokens it can read.
    """

    vocabulary: Vocabulary
    name: str

    @property
    def template(self) -> str:
        """What a string is put into before it is read (of several models, the first one's)."""
        ...

    @property
    def flops(self) -> float: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context(self) -> int: ...

    def narrowed(self, rows: int) -> Self:
        """The same model over its first `rows` ids alone: their probabilities have a sum of 1."""
        ...

    def too_long(self, prompt: PromptInput, room: int) -> str | None:
        """Why the prompt cannot be given `room` new tokens within the context; None where it can."""
        ...

    def start(self, prompts: Sequence[PromptInput], room: int, *, truncate: bool = False) -> State:
        """A state of one row a prompt, with room for `room` more tokens a row (it grows where that is not enough).

        With `cut`, a prompt that is too long loses its first tokens.

        Raises:
            ModelError: a prompt is too long, or holds a token that the model has no row for.
        """
        ...

    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> State:
        """`start` from ids, each prompt at least one."""
        ...

    def next_logits(self, state: State) -> torch.Tensor:
        """Logits [rows, vocabulary] of the next token of each row; reads each row's last token.

        Asked again before any row has a new token, it gives the same. The tensor is valid until the model's next call.
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


def why_too_long(model: LanguageModel, prompt_tokens: int, room: int) -> str | None:
    """Why a prompt of so many tokens cannot be continued by `room` more; None where it can."""
    if prompt_tokens + room <= model.context:
        return None
    return f"a prompt of {prompt_tokens} tokens and {room} new ones exceed {model.name}'s context of {model.context}"


def cut_to(model: LanguageModel, prompt_ids: list[int], room: int) -> list[int]:
    """The last ids of a prompt, as many as `room` new tokens leave place for."""
    return prompt_ids[-max(1, model.context - room) :]


def check_length(model: LanguageModel, prompt_tokens: int, room: int) -> None:
    """Raise ModelError where a prompt of so many tokens cannot be continued by `room` more."""
    raise_if_too_long(why_too_long(model, prompt_tokens, room))


def check_text(model: LanguageModel, tokens: int) -> None:
    """Raise ModelError where a text of so many tokens is longer than the model's context."""
    if tokens > model.context:
        raise_if_too_long(f"a text of {tokens} tokens exceeds {model.name}'s context of {model.context}")


def raise_if_too_long(reason: str | None) -> None:
    """Raise ModelError where there is a reason, as `why_too_long` gives it."""
    if reason is not None:
        raise ModelError(f"{reason}: shorten the prompt or lower max_new_tokens")


def check_ids(name: str, vocabulary: Vocabulary, rows: int, texts: Iterable[Sequence[int]]) -> None:
    """Raise ModelError where texts hold an id that the model of this name, with embeddings of `rows` ids, lacks."""
    for ids in texts:
        if min(ids, default=0) < 0:
            raise ModelError(f"{min(ids)} is no token id: ids are counted from 0")
        if max(ids, default=0) >= rows:
            token = next(each for each in ids if each >= rows)
            raise ModelError(
                f"{vocabulary.tokenizer.convert_ids_to_tokens(token) or 'a token'} has id {token} in the tokenizer of "
                f"{name or 'the model'}, which has embeddings for ids below {rows} only: leave it out of template and "
                "prompts, or resize the model's embeddings (resize_token_embeddings)"
            )


def sequence_log_probabilities(
    model: LanguageModel, prompts: Sequence[PromptInput], responses: Sequence[Sequence[int]], batch: int = 32
) -> list[float]:
    """log p(response | prompt) in nats, one sum a row: the masked sum that value, evaluation and tests share.

    NaN where prompt and response together are longer than the model's context.
    """
    sums = [math.nan] * len(prompts)
    fitting = [n for n, prompt in enumerate(prompts) if model.too_long(prompt, len(responses[n])) is None]
    for first in range(0, len(fitting), batch):
        group = fitting[first : first + batch]
        # rows grow as far as they need: room for the longest response may be more than a long prompt leaves
        state = model.start([prompts[n] for n in group], room=0)
        lengths = [len(row) for row in state.ids]
        _, rows = model.score(state, range(len(group)), lengths, [responses[n] for n in group])
        for n, row in zip(group, rows, strict=True):
            sums[n] = sum(row)
    return sums
