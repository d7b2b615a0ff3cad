"""What a language model is to the rest of the project, however it is computed.

A state holds rows of tokens. All tokens of a row but its last have been read into the cache; the last one is read when
its successor's distribution is first asked for. So siblings that fork after a token share the reading of it, and a row
can be cut back to any length without computing anything again.
"""

import math
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import torch

from trimtab.errors import ModelError
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput


class DecodeState(Protocol):
    """Rows of tokens and what a model remembers of them. Rows are changed in place; `select` makes a new state."""

    ids: list[list[int]]

    @property
    def prompt_lengths(self) -> list[int]:
        """How many of each row's ids are its prompt."""

    def select(self, rows: Sequence[int]) -> Self:
        """A state of these rows, in this order: keep, drop, repeat and reorder are all this one call."""

    def append(self, tokens: Sequence[int | None]) -> None:
        """Put one token at the end of each row; None leaves a row unchanged.

        The next logits of a row without a new token mean nothing.
        """

    @property
    def kind(self) -> Hashable:
        """Rows of two states of one model can stand in one state where this is equal."""

    def place(self, source: Self, rows: Sequence[int], places: Sequence[int]) -> None:
        """Copy rows of `source`, which may be this state, to these places of this state.

        A place at the end adds a row; several such places are given in order.
        """

    def truncate(self, count: int) -> None:
        """Keep the first `count` rows alone."""

    def read_again(self, rows: Sequence[int]) -> None:
        """Have the last token of these rows read again, so that their next logits mean something."""


State = TypeVar("State", bound=DecodeState)


@runtime_checkable
class StatefulModel(Protocol[State]):
    """A causal language model with its prompt template and tokenizer."""

    vocabulary: Vocabulary
    name: str

    @property
    def template(self) -> str:
        """The prompt template (of several models, the first one's)."""

    @property
    def flops(self) -> float:
        """Forward FLOPs of all tokens read so far without padding, 2 for each weight and token (Kaplan et al. 2020),
        without the attention's own products."""

    @property
    def vocab_size(self) -> int:
        """How many ids it can read and predict; the tokenizer may have more, which have no embedding."""

    @property
    def context(self) -> int:
        """How many tokens it can read."""

    def narrowed(self, vocab_size: int) -> Self:
        """The same model over its first `vocab_size` ids alone: their probabilities have a sum of 1."""

    def too_long(self, prompt: PromptInput, room: int) -> str | None:
        """Why the prompt and `room` new tokens exceed the context; None where they fit."""

    def start(self, prompts: Sequence[PromptInput], room: int, *, truncate: bool = False) -> State:
        """A state of one row per prompt, with room for `room` more tokens in each (it grows where that is not enough).

        With `truncate`, a prompt that is too long loses its first tokens.

        Raises:
            ModelError: a prompt is too long, or holds a token that the model has no embedding for.
        """

    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> State:
        """`start` from ids, at least one for each prompt."""

    def starting(
        self, prompts: Sequence[PromptInput | tuple[int, ...]], room: int, tokens: int
    ) -> Generator[None, None, State]:
        """`start`, about `tokens` tokens at a time: yields between them, and returns the state at the end.

        A tuple is a prompt's ids. Before the first yield nothing else may be called of a model that shares layers with
        this one, but the same function of the model that shares them.
        """

    def logits_along(self, ids: Sequence[int], tokens: int) -> Iterator[torch.Tensor]:
        """Logits [tokens, vocabulary] of the successor of each token of one text, `tokens` tokens at a time.

        Each tensor is valid until the model's next call.
        """

    def next_logits(self, state: State) -> torch.Tensor:
        """Logits [rows, vocabulary] of the next token of each row; reads each row's last token.

        Asked again before any row has a new token, it gives the same. The tensor is valid until the model's next call.
        """

    def score(
        self, state: State, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[State, list[list[float]]]:
        """Fork rows, continue them, and give each new token's log-probability in nats.

        Child i is the first `keep[i]` tokens of row `parents[i]` (at least its prompt), continued by `tokens[i]`,
        which may be empty. Returns the children's state and one list of log-probabilities per child.
        """


LanguageModel: TypeAlias = StatefulModel[Any]
"""A language model with any kind of state: callers pass states back to the model that made them."""


def side_by_side(starts: Sequence[Generator[None, None, Any]]) -> Generator[None, None, list[Any]]:
    """What several `starting` return, each going on in turn until all have ended."""
    results: list[Any] = [None] * len(starts)
    going = list(enumerate(starts))
    while going:
        left = []
        for index, start in going:
            try:
                next(start)
                left.append((index, start))
            except StopIteration as end:
                results[index] = end.value
        going = left
        if going:
            yield
    return results


def joined(states: Sequence[State]) -> State:
    """One state of the rows of several, one after the other. Their kinds are equal; they stay as they are."""
    whole = states[0].select(range(len(states[0].ids)))
    for state in states[1:]:
        first, count = len(whole.ids), len(state.ids)
        if count:
            whole.place(state, range(count), range(first, first + count))
    return whole


def raise_if_too_long(reason: str | None) -> None:
    """Raise ModelError with the reason that `too_long` gives, if any."""
    if reason is not None:
        raise ModelError(f"{reason}: shorten the prompt or lower max_new_tokens")


def check_ids(name: str, vocabulary: Vocabulary, vocab_size: int, texts: Iterable[Sequence[int]]) -> None:
    """Raise ModelError where texts hold an id for which the model called `name` has no embedding."""
    for ids in texts:
        if min(ids, default=0) < 0:
            raise ModelError(f"{min(ids)} is no token id: ids are counted from 0")
        if max(ids, default=0) >= vocab_size:
            token = next(token for token in ids if token >= vocab_size)
            raise ModelError(
                f"{vocabulary.tokenizer.convert_ids_to_tokens(token) or 'a token'} has id {token} in the tokenizer of "
                f"{name or 'the model'}, which has embeddings for ids below {vocab_size} only: leave it out of "
                "template and prompts, or resize the model's embeddings (resize_token_embeddings)"
            )


def sequence_log_probabilities(
    model: LanguageModel, prompts: Sequence[PromptInput], responses: Sequence[Sequence[int]], batch: int = 32
) -> list[float]:
    """log p(response | prompt) in nats, one sum per row: the masked sum that value, evaluation and tests share.

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
