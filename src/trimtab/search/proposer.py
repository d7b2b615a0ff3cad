"""Where candidates come from, in chunks: start prompts, continue rows by so many successors and tokens, keep these.

`LanguageModelProposer` forks a language model's state; an engine that hides its logits implements the protocol with
text alone (`completions_proposer`). Knows nothing of values.

    >>> proposer = LanguageModelProposer(model, SamplingConfig(), seed=0)               # doctest: +SKIP
    >>> state = proposer.start([Prompt("p0", "I really")], room=40)                     # doctest: +SKIP
    >>> state, more = proposer.propose(state, [Fork(row=0, slot=0, token_ids=[])], tokens=5)    # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np

from trimtab.experiment import SamplingConfig
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.sampling import FAILED, draw, prompt_key, uniforms
from trimtab.records import Finish, Prompt

COMPACT = 0.75  # drop ended rows from the batch when no more than this share of them is left


@dataclass(frozen=True, slots=True)
class Fork:
    """Continue `row`, whose response so far is `token_ids`; draws are numbered by `slot` and the token's place."""

    row: int
    slot: int
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Continuation:
    """New tokens of one fork, an end token included. `row` is its row in the new state, None where it has ended."""

    token_ids: list[int]
    finish: Finish | None
    row: int | None


class ProposerState(Protocol):
    """What a proposer remembers of each row."""

    def select(self, rows: Sequence[int]) -> Self:
        """These rows, in this order."""
        ...


State = TypeVar("State", bound=ProposerState)


@dataclass
class SampledRows:
    """A model's rows, the prompt behind each of them as the key of its random numbers, and the longest response."""

    model: DecodeState
    keys: list[int]
    room: int

    def select(self, rows: Sequence[int]) -> "SampledRows":
        return SampledRows(self.model.select(rows), [self.keys[row] for row in rows], self.room)


@dataclass(slots=True)
class _Growth:
    """What one fork has grown by: why it has finished, or that it waits for the chunks of others to end."""

    fork: Fork
    left: int  # tokens that there is room for
    ends_from: int = 0  # where the text of this chunk begins
    token_ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    waits: bool = False

    @property
    def length(self) -> int:
        return len(self.fork.token_ids) + len(self.token_ids)


class StatefulProposer(Protocol[State]):
    """A source of continuations. Where it has no `tokens`, ids are its own and mean nothing to anyone else."""

    @property
    def tokens(self) -> bool: ...

    def start(self, prompts: Sequence[Prompt], room: int) -> State:
        """One row a prompt, for responses of at most `room` tokens."""
        ...

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        """Why the prompt cannot have a response of `room` tokens; None where it can, or nobody knows before."""
        ...

    def propose(self, state: State, forks: Sequence[Fork], tokens: int) -> tuple[State, list[Continuation]]:
        """Continue each fork by up to `tokens` tokens, and to no more than `room`; the new state has a row for each
        that goes on."""
        ...

    def prompt_ids(self, state: State) -> list[list[int]]:
        """The prompt of each row as the model reads it."""
        ...

    def texts(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[str]:
        """The texts of responses, each after the prompt that it answers, cut before a stop string."""
        ...


Proposer: TypeAlias = StatefulProposer[Any]
"""A source of continuations whatever its state."""


def cut_before(stop: Sequence[str], text: str) -> str:
    """The text up to the first of the stop strings in it."""
    return text[: min((found for each in stop if (found := text.find(each)) >= 0), default=len(text))]


class _Numbers:
    """The random numbers of forks: of their prompts' keys, their slots, and the places of their tokens."""

    def __init__(self, seed: int, keys: Sequence[int], forks: Sequence[Fork]) -> None:
        self._seed = seed
        self._keys = np.array(keys, dtype=np.uint64)
        self._slots = np.array([fork.slot for fork in forks], dtype=np.uint64)
        self._lengths = np.array([len(fork.token_ids) for fork in forks], dtype=np.uint64)

    def at(self, forks: Sequence[int], offset: int) -> np.ndarray:
        """For the token that comes `offset` tokens after what each of these forks had, [forks]."""
        chosen = np.array(forks, dtype=np.intp)
        steps = self._lengths[chosen] + np.uint64(offset)
        return uniforms(self._seed, self._keys[chosen], self._slots[chosen], steps)


class LanguageModelProposer:
    """Samples a language model.

    Args:
        model: the language model.
        sampling: temperature and filters.
        seed: the run's seed.
        stop: strings that end a response; it is cut before the first of them.
        chunk_ends: strings that end a chunk before it has all its tokens.
        ignore_eos: never end a response at an end token (for measurements at equal lengths).
    """

    tokens = True

    def __init__(
        self,
        model: LanguageModel,
        sampling: SamplingConfig,
        seed: int,
        *,
        stop: Sequence[str] = (),
        chunk_ends: Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.seed = seed
        self.stop = tuple(stop)
        self.chunk_ends = tuple(chunk_ends)
        self.ends: frozenset[int] = frozenset() if ignore_eos else model.vocabulary.eos_ids

    def start(self, prompts: Sequence[Prompt], room: int) -> SampledRows:
        state = self.model.start([prompt.text for prompt in prompts], room)
        return SampledRows(state, [prompt_key(prompt.id) for prompt in prompts], room)

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return self.model.too_long(prompt.text, room)

    def prompt_ids(self, state: SampledRows) -> list[list[int]]:
        return [ids[:length] for ids, length in zip(state.model.ids, state.model.prompt_lengths, strict=True)]

    def texts(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[str]:
        decoded = self.model.vocabulary.decode_responses(prompts, responses)
        return [cut_before(self.stop, text) for text in decoded]

    def propose(self, state: SampledRows, forks: Sequence[Fork], tokens: int) -> tuple[SampledRows, list[Continuation]]:
        grown = [_Growth(fork, state.room - len(fork.token_ids)) for fork in forks]
        if self.chunk_ends:
            for each in grown:
                each.ends_from = len(self._text(state.model, each.fork.row, len(each.fork.token_ids)))
        place = list(range(len(forks)))  # the fork behind each row of `rows`
        # Siblings share the reading of their parent's last token: the first draw comes before the fork.
        source: Sequence[int] = [fork.row for fork in forks]
        numbers = _Numbers(self.seed, [state.keys[row] for row in source], forks)
        logits, seen = self.model.next_logits(state.model), state.model.ids
        rows, waited = state.select(source), False
        for offset in range(tokens):
            if offset:
                logits, seen, source = self.model.next_logits(rows.model), rows.model.ids, range(len(place))
            drawn = draw(logits, source, numbers.at(place, offset), self.sampling, seen)
            # what has ended, or waits for the longer chunks of others, is not read on
            taken = [grown[fork].finish is None and not grown[fork].waits for fork in place]
            rows.model.append([max(token, 0) if takes else None for token, takes in zip(drawn, taken, strict=True)])
            self._take(grown, place, drawn, rows.model)
            going = [row for row, fork in enumerate(place) if grown[fork].finish is None]
            done = offset == tokens - 1 or all(grown[place[row]].waits for row in going)
            # An ended row goes at the end of the chunk, or before where enough have ended to pay for the copying.
            if len(going) < len(place) and (done or len(going) <= COMPACT * len(place)):
                rows, place = rows.select(going), [place[row] for row in going]
            if done:
                break
            waited |= any(grown[fork].waits for fork in place)
        row_of = {fork: row for row, fork in enumerate(place)}
        rows = self._unread(rows) if waited else rows
        return rows, [Continuation(each.token_ids, each.finish, row_of.get(fork)) for fork, each in enumerate(grown)]

    def _take(self, grown: Sequence[_Growth], place: Sequence[int], drawn: Sequence[int], rows: DecodeState) -> None:
        """Add each row's token to its fork, where that neither has ended nor waits, and say whether it now does."""
        reads_text = bool(self.stop or self.chunk_ends)
        for row, (fork, token) in enumerate(zip(place, drawn, strict=True)):
            growth = grown[fork]
            if growth.finish is not None or growth.waits:
                continue
            if token == FAILED:
                growth.finish = "failed"
                continue
            growth.token_ids.append(token)
            if token in self.ends:
                growth.finish = "eos"
                continue
            growth.waits = len(growth.token_ids) >= growth.left
            if reads_text:
                self._read_text(growth, self._text(rows, row, growth.length))

    def _read_text(self, growth: _Growth, text: str) -> None:
        """Say whether the text of the response so far ends it, or its chunk."""
        if any(each in text for each in self.stop):
            growth.finish = "stop"
        # a string that began in the chunk before ends this one
        starts = {each: max(0, growth.ends_from - len(each) + 1) for each in self.chunk_ends}
        growth.waits |= any(text.find(each, start) >= 0 for each, start in starts.items())

    def _text(self, rows: DecodeState, row: int, length: int) -> str:
        """The text of the response of `length` tokens that a row ends with."""
        ids = rows.ids[row]
        place = len(ids) - length
        return self.model.vocabulary.decode_response(ids[:place], ids[place:])

    def _unread(self, rows: SampledRows) -> SampledRows:
        """The rows, of each of which the last token is still to be read: those that waited have read theirs."""
        keep = list(map(len, rows.model.ids))
        model, _ = self.model.score(rows.model, range(len(keep)), keep, [[] for _ in keep])
        return SampledRows(model, rows.keys, rows.room)
