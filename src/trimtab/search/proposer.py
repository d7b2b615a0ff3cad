"""Where candidates come from, in chunks: start prompts, continue rows by so many successors and tokens, keep these.

`LanguageModelProposer` forks a language model's state; an engine that hides its logits implements the protocol with
text alone (`completions_proposer`).

    >>> proposer = LanguageModelProposer(model, SamplingConfig(), seed=0)               # doctest: +SKIP
    >>> state = proposer.start([Prompt("p0", "I really")], room=40)                     # doctest: +SKIP
    >>> state, more = proposer.propose(state, [Fork(row=0, slot=0, token_ids=[])], tokens=5)    # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np

from trimtab.config.search import SamplingConfig
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.sampling import FAILED, draw, prompt_key, uniforms
from trimtab.records import Finish, Prompt
from trimtab.search.stop_strings import ResponseWriter, Written

_NOTHING = Written("")
COMPACT = 0.75  # drop ended rows from the batch when no more than this share of them is left


@dataclass(frozen=True, slots=True)
class Fork:
    """Continue `row`, whose response so far is `token_ids`; draws are numbered by `slot` and the token's place."""

    row: int
    slot: int
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Continuation:
    """What one fork has grown by.

    `token_ids`: its new tokens, an end token included. `row`: its row in the new state, None where it has ended.
    `text`: the whole response, cut before a stop string. `settled`: what the text will begin with however it goes on: a
    stop string may have begun at its end.
    """

    token_ids: list[int]
    finish: Finish | None
    row: int | None
    text: str
    settled: str


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
    before: Written = _NOTHING  # the response when this chunk began
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


Proposer: TypeAlias = StatefulProposer[Any]
"""A source of continuations whatever its state."""


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
        stop: strings that end a response; it is cut before the first of them. They may hold special tokens, which
            texts are given without.
        chunk_ends: strings that end a chunk before it has all its tokens; they may, too.
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
        self._writer = ResponseWriter(model.vocabulary, [*stop, *chunk_ends])

    def start(self, prompts: Sequence[Prompt], room: int) -> SampledRows:
        state = self.model.start([prompt.text for prompt in prompts], room)
        return SampledRows(state, [prompt_key(prompt.id) for prompt in prompts], room)

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return self.model.too_long(prompt.text, room)

    def prompt_ids(self, state: SampledRows) -> list[list[int]]:
        return [ids[:length] for ids, length in zip(state.model.ids, state.model.prompt_lengths, strict=True)]

    def propose(self, state: SampledRows, forks: Sequence[Fork], tokens: int) -> tuple[SampledRows, list[Continuation]]:
        grown = [_Growth(fork, state.room - len(fork.token_ids)) for fork in forks]
        if self.chunk_ends:
            rows_of = [(fork.row, len(fork.token_ids)) for fork in forks]
            for each, before in zip(grown, self._written(state.model, rows_of), strict=True):
                each.before = before
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
        prompt_ids = self.prompt_ids(state)
        responses = [[*each.fork.token_ids, *each.token_ids] for each in grown]
        written = self._writer.written([prompt_ids[fork.row] for fork in forks], responses)
        return self._unread(rows) if waited else rows, [
            Continuation(
                each.token_ids, each.finish, row_of.get(fork), text.cut_before(self.stop), text.held_back(self.stop)
            )
            for fork, (each, text) in enumerate(zip(grown, written, strict=True))
        ]

    def _take(self, grown: Sequence[_Growth], place: Sequence[int], drawn: Sequence[int], rows: DecodeState) -> None:
        """Add each row's token to its fork, where that neither has ended nor waits, and say whether it now does."""
        unread: list[tuple[int, _Growth]] = []
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
            unread.append((row, growth))
        if self.stop or self.chunk_ends:
            read = self._written(rows, [(row, growth.length) for row, growth in unread])
            for (_, growth), written in zip(unread, read, strict=True):
                if written.has_new(self.stop, _NOTHING):
                    growth.finish = "stop"
                growth.waits |= written.has_new(self.chunk_ends, growth.before)

    def _written(self, rows: DecodeState, responses: Sequence[tuple[int, int]]) -> list[Written]:
        """The responses of (row, length), each being the last `length` tokens of a row."""
        every = [(rows.ids[row], len(rows.ids[row]) - length) for row, length in responses]
        return self._writer.written([ids[:place] for ids, place in every], [ids[place:] for ids, place in every])

    def _unread(self, rows: SampledRows) -> SampledRows:
        """The rows, of each of which the last token is still to be read: those that waited have read theirs."""
        keep = list(map(len, rows.model.ids))
        model, _ = self.model.score(rows.model, range(len(keep)), keep, [[] for _ in keep])
        return SampledRows(model, rows.keys, rows.room)
