"""Where candidates come from, in chunks: start prompts, continue rows by so many successors and tokens, keep these.

`LanguageModelProposer` forks a language model's state. An engine that hides its logits can implement the protocol with
text alone. Knows nothing of values.

    >>> proposer = LanguageModelProposer(model, SamplingConfig(), seed=0)               # doctest: +SKIP
    >>> state = proposer.start([Prompt("p0", "I really")], room=40)                     # doctest: +SKIP
    >>> state, continuations = proposer.propose(state, [Fork(row=0, slot=0, step=0)], tokens=5)    # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.experiment import SamplingConfig
from trimtab.models.language_model import DecodeState, LanguageModel
from trimtab.models.sampling import draw, prompt_key, uniforms
from trimtab.records import Finish, Prompt

COMPACT = 0.75  # drop ended rows from the batch when no more than this share of them is left


@dataclass(frozen=True, slots=True)
class Fork:
    """Continue `row`; the draws are numbered by the prompt's `slot` and from token `step` of the response on."""

    row: int
    slot: int
    step: int


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
        """The text of a response."""
        ...


class LanguageModelProposer:
    """Samples a language model.

    Args:
        model: the language model.
        sampling: temperature and filters.
        seed: the run's seed.
        ignore_eos: never end a response before its length (for measurements at equal lengths).
    """

    def __init__(
        self, model: LanguageModel, sampling: SamplingConfig, seed: int, *, ignore_eos: bool = False
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.seed = seed
        self.ends: frozenset[int] = frozenset() if ignore_eos else model.vocabulary.eos_ids

    def start(self, prompts: Sequence[Prompt], room: int) -> ProposerState:
        state = self.model.start([prompt.text for prompt in prompts], room)
        return ProposerState(state, [prompt_key(prompt.id) for prompt in prompts])

    def prompt_ids(self, state: ProposerState) -> list[list[int]]:
        return [ids[:length] for ids, length in zip(state.model.ids, state.model.prompt_lengths, strict=True)]

    def text(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        return self.model.vocabulary.decode_response(prompt_ids, token_ids)

    def propose(
        self, state: ProposerState, forks: Sequence[Fork], tokens: int
    ) -> tuple[ProposerState, list[Continuation]]:
        responses: list[list[int]] = [[] for _ in forks]
        place = list(range(len(forks)))  # the fork behind each row of `rows`
        keys = [state.keys[fork.row] for fork in forks]
        # Siblings share the reading of their parent's last token, so the first draw comes before the fork.
        logits, source, rows = self.model.next_logits(state.model), [fork.row for fork in forks], None
        for offset in range(tokens):
            if rows is not None:
                logits, source = self.model.next_logits(rows), list(range(len(place)))
            numbers = uniforms(
                self.seed,
                [keys[fork] for fork in place],
                [forks[fork].slot for fork in place],
                [forks[fork].step + offset for fork in place],
            )
            drawn = draw(logits, source, numbers, self.sampling)
            if rows is None:
                rows = state.model.select(source)
            rows.append(drawn)
            for fork, token in zip(place, drawn, strict=True):
                if not self._ended(responses[fork]):
                    responses[fork].append(token)
            going = [row for row, fork in enumerate(place) if not self._ended(responses[fork])]
            if offset == tokens - 1 or len(going) <= COMPACT * len(place):
                rows, place = rows.select(going) if len(going) < len(place) else rows, [place[row] for row in going]
            if not place:
                break
        assert rows is not None
        row_of = {fork: row for row, fork in enumerate(place)}
        continuations = [
            Continuation(response, "eos" if self._ended(response) else None, row_of.get(fork))
            for fork, response in enumerate(responses)
        ]
        return ProposerState(rows, [keys[fork] for fork in place]), continuations

    def _ended(self, response: Sequence[int]) -> bool:
        return bool(response) and response[-1] in self.ends
