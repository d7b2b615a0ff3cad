"""Where candidates come from: a proposer starts prompts and continues rows, a chunk at a time.

`LanguageModelProposer` samples a language model; `completions_proposer` a server that shows its texts alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from trimtab.config.search import SamplingConfig
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.sampling import FAILED, draw, prompt_key, uniforms
from trimtab.records import Finish, Prompt
from trimtab.search.stop_strings import ResponseWriter, Written
from trimtab.store.blocks import Within, ignored

_NOTHING = Written("")
COMPACTION_SHARE = 0.75  # ended rows are dropped from the batch once no more than this share of its rows goes on


@dataclass(frozen=True, slots=True)
class Fork:
    """Continue `row`, whose response so far is `token_ids`; the random stream `slot` draws the tokens."""

    row: int
    slot: int
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a fork has grown by.

    `token_ids`: its new tokens, an end token included. `row`: its row in the new state, None where it has ended. `text`
    and `settled` are those of the whole response, as a `Hypothesis` and a `Beam` have them.
    """

    token_ids: list[int]
    finish: Finish | None
    row: int | None
    text: str
    settled: str


class Proposer(Protocol):
    """A source of continuations. Its states have one row for each open response, as those of `search.value`.

    Without `tokens`, its ids are placeholders that only this proposer understands. While it works it calls `reached`
    with the share of the longest response that has been written.
    """

    reached: Within

    @property
    def tokens(self) -> bool: ...

    def start(self, prompts: Sequence[Prompt], room: int) -> Any:
        """A state with one row a prompt, for responses of at most `room` tokens."""
        ...

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        """Why the prompt leaves no room for `room` tokens; None where there is room, or only a server can tell."""
        ...

    def propose(self, state: Any, forks: Sequence[Fork], tokens: int) -> tuple[Any, list[Continuation]]:
        """Continue each fork by up to `tokens` tokens, to at most `room`; the new state has the rows that go on."""
        ...

    def prompt_ids(self, state: Any) -> list[list[int]]:
        """The prompt of each row as the model reads it."""
        ...


@dataclass
class SampledRows:
    """A model's rows, the key of the random numbers of each row's prompt, and the longest response."""

    model: DecodeState
    keys: list[int]
    room: int

    def select(self, rows: Sequence[int]) -> "SampledRows":
        return SampledRows(self.model.select(rows), [self.keys[row] for row in rows], self.room)


@dataclass(slots=True)
class Growth:
    """How fork number `index` has grown so far, and whether it has finished or waits for other forks."""

    index: int
    fork: Fork
    left: int  # tokens that there is room for
    before: Written = _NOTHING  # the response when this chunk began
    token_ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    waits: bool = False

    @property
    def grows(self) -> bool:
        return self.finish is None and not self.waits


@dataclass(eq=False)
class LanguageModelProposer:
    """Samples a language model with the run's `seed`.

    `stop`: strings that end a response, which is cut before the first of them. `chunk_ends`: strings that end a chunk
    before it has all its tokens. Both may hold special tokens, which texts are given without. `stop_ids`: tokens that
    end a response as a stop string does; their text is left out. `ignore_eos`: never end a response at an end token
    (for measurements at equal lengths).
    """

    model: LanguageModel
    sampling: SamplingConfig
    seed: int
    stop: Sequence[str] = ()
    chunk_ends: Sequence[str] = ()
    ignore_eos: bool = False
    stop_ids: frozenset[int] = frozenset()
    tokens = True

    def __post_init__(self) -> None:
        self.reached: Within = ignored
        self.ends = frozenset() if self.ignore_eos else self.model.vocabulary.eos_ids
        self._writer = ResponseWriter(self.model.vocabulary, [*self.stop, *self.chunk_ends])

    def start(self, prompts: Sequence[Prompt], room: int) -> SampledRows:
        state = self.model.start([prompt.text for prompt in prompts], room)
        return SampledRows(state, [prompt_key(prompt.id) for prompt in prompts], room)

    def too_long(self, prompt: Prompt, room: int) -> str | None:
        return self.model.too_long(prompt.text, room)

    def prompt_ids(self, state: SampledRows) -> list[list[int]]:
        return [ids[:length] for ids, length in zip(state.model.ids, state.model.prompt_lengths, strict=True)]

    def propose(self, state: SampledRows, forks: Sequence[Fork], tokens: int) -> tuple[SampledRows, list[Continuation]]:
        prompt_ids = self.prompt_ids(state)
        grown = self.growths(forks, state.room, prompt_ids)
        # random numbers are those of the prompt's key, the slot and the token's place in the response
        keys = np.array([state.keys[fork.row] for fork in forks], dtype=np.uint64)
        slots = np.array([fork.slot for fork in forks], dtype=np.uint64)
        lengths = np.array([len(fork.token_ids) for fork in forks], dtype=np.uint64)
        shortest = int(lengths.min(initial=state.room))
        # Siblings share the reading of their parent's last token: the first draw comes before the fork.
        source: Sequence[int] = [fork.row for fork in forks]
        logits, seen = self.model.next_logits(state.model), state.model.ids
        rows, growing, waited = state.select(source), grown, False
        for offset in range(tokens):
            if offset:
                logits, seen, source = self.model.next_logits(rows.model), rows.model.ids, range(len(growing))
            at = np.array([growth.index for growth in growing], dtype=np.intp)
            drawn_by = uniforms(self.seed, keys[at], slots[at], lengths[at] + np.uint64(offset))
            drawn = draw(logits, source, drawn_by, self.sampling, seen)
            # what has ended, or waits for the longer chunks of others, is not read on
            taken = [max(token, 0) if g.grows else None for token, g in zip(drawn, growing, strict=True)]
            rows.model.append(taken)
            self.take(growing, drawn, prompt_ids)
            self.reached((shortest + offset + 1) / state.room)
            going = [row for row, growth in enumerate(growing) if growth.finish is None]
            done = offset == tokens - 1 or all(growing[row].waits for row in going)
            # An ended row goes at the end of the chunk, or before where enough have ended to pay for the copying.
            if len(going) < len(growing) and (done or len(going) <= COMPACTION_SHARE * len(growing)):
                rows, growing = rows.select(going), [growing[row] for row in going]
            if done:
                break
            waited |= any(growth.waits for growth in growing)
        row_of = {growth.index: row for row, growth in enumerate(growing)}
        return self._unread(rows) if waited else rows, self.continuations(grown, row_of, prompt_ids)

    def growths(self, forks: Sequence[Fork], room: int, prompt_ids: Sequence[list[int]]) -> list[Growth]:
        """The forks before they grow, of responses of at most `room` tokens."""
        grown = [Growth(n, fork, room - len(fork.token_ids)) for n, fork in enumerate(forks)]
        if self.chunk_ends:
            for growth, written in zip(grown, self._written(prompt_ids, grown), strict=True):
                growth.before = written
        return grown

    def continuations(
        self, grown: Sequence[Growth], row_of: Mapping[int, int], prompt_ids: Sequence[list[int]]
    ) -> list[Continuation]:
        """What the forks have grown by; `row_of` has the new row of each that goes on, by its index."""
        return [
            Continuation(
                growth.token_ids,
                growth.finish,
                row_of.get(growth.index),
                written.cut_before(self.stop),
                written.held_back(self.stop),
            )
            for growth, written in zip(grown, self._written(prompt_ids, grown), strict=True)
        ]

    def stopped_by(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str | None:
        """The stop string before which a response is cut; None where it is not."""
        (written,) = self._writer.written([prompt_ids], [token_ids])
        cut = written.cut_before(self.stop)
        inside = (string for string in self.stop if written.has_new([string], _NOTHING))
        return next((string for string in inside if written.cut_before([string]) == cut), None)

    def take(self, growing: Sequence[Growth], drawn: Sequence[int], prompt_ids: Sequence[list[int]]) -> None:
        """Add each row's token to its fork, unless that has ended or waits, and note whether it now does."""
        unread: list[Growth] = []
        for growth, token in zip(growing, drawn, strict=True):
            if not growth.grows:
                continue
            if token == FAILED:
                growth.finish = "failed"
                continue
            growth.token_ids.append(token)
            if token in self.ends:
                growth.finish = "eos"
                continue
            if token in self.stop_ids:
                growth.finish = "stop"
                continue
            growth.waits = len(growth.token_ids) >= growth.left
            unread.append(growth)
        if self.stop or self.chunk_ends:
            for growth, written in zip(unread, self._written(prompt_ids, unread), strict=True):
                if written.has_new(self.stop, _NOTHING):
                    growth.finish = "stop"
                growth.waits |= written.has_new(self.chunk_ends, growth.before)

    def _written(self, prompt_ids: Sequence[list[int]], grown: Sequence[Growth]) -> list[Written]:
        """What each fork's whole response has written."""
        prompts = [prompt_ids[growth.fork.row] for growth in grown]
        responses = [[*growth.fork.token_ids, *growth.token_ids] for growth in grown]
        if self.stop_ids:
            responses = [ids[:-1] if ids and ids[-1] in self.stop_ids else ids for ids in responses]
        return self._writer.written(prompts, responses)

    def _unread(self, rows: SampledRows) -> SampledRows:
        """The rows with their last token marked as unread, as states require; rows that waited have read theirs."""
        keep = list(map(len, rows.model.ids))
        model, _ = self.model.score(rows.model, range(len(keep)), keep, [[] for _ in keep])
        return SampledRows(model, rows.keys, rows.room)
