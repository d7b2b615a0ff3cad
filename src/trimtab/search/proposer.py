"""Where candidates come from, in chunks: start prompts, continue rows by so many successors and tokens, keep these.

`LanguageModelProposer` forks a language model's state. An engine that hides its logits can implement the protocol with
text alone. Knows nothing of values.

    >>> proposer = LanguageModelProposer(model, SamplingConfig(), seed=0)               # doctest: +SKIP
    >>> state = proposer.start([Prompt("p0", "I really")], room=40)                     # doctest: +SKIP
    >>> state, more = proposer.propose(state, [Fork(row=0, slot=0, token_ids=[])], tokens=5)    # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


@dataclass
class ProposerState:
    """A model's rows and the prompt behind each of them, as the key of its random numbers."""

    model: DecodeState
    keys: list[int]

    def select(self, rows: Sequence[int]) -> "ProposerState":
        return ProposerState(self.model.select(rows), [self.keys[row] for row in rows])


class Proposer(Protocol):
    """A source of continuations."""

    def start(self, prompts: Sequence[Prompt], room: int) -> ProposerState:
        """One row a prompt, for responses of at most `room` tokens."""
        ...

    def propose(
        self, state: ProposerState, forks: Sequence[Fork], tokens: int
    ) -> tuple[ProposerState, list[Continuation]]:
        """Continue each fork by up to `tokens` tokens; the new state has a row for each that goes on."""
        ...

    def prompt_ids(self, state: ProposerState) -> list[list[int]]:
        """The prompt of each row as the model reads it."""
        ...

    def text(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """The text of a response, cut before a stop string."""
        ...


class LanguageModelProposer:
    """Samples a language model.

    Args:
        model: the language model.
        sampling: temperature and filters.
        seed: the run's seed.
        stop: strings that end a response; it is cut before the first of them.
        ignore_eos: never end a response at an end token (for measurements at equal lengths).
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: SamplingConfig,
        seed: int,
        *,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.seed = seed
        self.stop = tuple(stop)
        self.ends: frozenset[int] = frozenset() if ignore_eos else model.vocabulary.eos_ids

    def start(self, prompts: Sequence[Prompt], room: int) -> ProposerState:
        state = self.model.start([prompt.text for prompt in prompts], room)
        return ProposerState(state, [prompt_key(prompt.id) for prompt in prompts])

    def prompt_ids(self, state: ProposerState) -> list[list[int]]:
        return [ids[:length] for ids, length in zip(state.model.ids, state.model.prompt_lengths, strict=True)]

    def text(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        text = self.model.vocabulary.decode_response(prompt_ids, token_ids)
        return text[: min((found for each in self.stop if (found := text.find(each)) >= 0), default=len(text))]

    def propose(
        self, state: ProposerState, forks: Sequence[Fork], tokens: int
    ) -> tuple[ProposerState, list[Continuation]]:
        new: list[list[int]] = [[] for _ in forks]
        finish: list[Finish | None] = [None] * len(forks)
        place = list(range(len(forks)))  # the fork behind each row of `rows`
        # Siblings share the reading of their parent's last token: the first draw comes before the fork.
        source = [fork.row for fork in forks]
        logits, seen = self.model.next_logits(state.model), state.model.ids
        rows = state.select(source)
        for offset in range(tokens):
            if offset:
                logits, seen, source = self.model.next_logits(rows.model), rows.model.ids, list(range(len(place)))
            numbers = self._numbers(rows, [forks[fork] for fork in place], offset)
            drawn = draw(logits, source, numbers, self.sampling, seen)
            rows.model.append([max(token, 0) for token in drawn])
            for row, (fork, token) in enumerate(zip(place, drawn, strict=True)):
                if token == FAILED:
                    finish[fork] = finish[fork] or "failed"
                elif finish[fork] is None:
                    new[fork].append(token)
                    finish[fork] = self._finish(rows.model, row, len(forks[fork].token_ids) + len(new[fork]))
            going = [row for row, fork in enumerate(place) if finish[fork] is None]
            # An ended row goes at the end of the chunk, or before where enough have ended to pay for the copying.
            if len(going) < len(place) and (offset == tokens - 1 or len(going) <= COMPACT * len(place)):
                rows, place = rows.select(going), [place[row] for row in going]
            if not place:
                break
        row_of = {fork: row for row, fork in enumerate(place)}
        return rows, [Continuation(ids, finish[fork], row_of.get(fork)) for fork, ids in enumerate(new)]

    def _numbers(self, rows: ProposerState, forks: Sequence[Fork], offset: int) -> np.ndarray:
        steps = [len(fork.token_ids) + offset for fork in forks]
        return uniforms(self.seed, rows.keys, [fork.slot for fork in forks], steps)

    def _finish(self, rows: DecodeState, row: int, length: int) -> Finish | None:
        """Why the response of `length` tokens that a row holds has ended, if it has."""
        ids = rows.ids[row]
        if ids[-1] in self.ends:
            return "eos"
        if self.stop:
            prompt, response = ids[: len(ids) - length], ids[len(ids) - length :]
            text = self.model.vocabulary.decode_response(prompt, response)
            if any(each in text for each in self.stop):
                return "stop"
        return None
