"""One response in the making: a running search, its rows in a pool, and what its client has been told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab.errors import ModelError
from trimtab.models.sampling import FAILED, prompt_key, uniforms
from trimtab.records import SET_ASIDE, Prompt, PromptInput
from trimtab.search.chunk_beam import RunningSearch, Search
from trimtab.search.hypothesis import Beam, Hypothesis, Step, agreed_text
from trimtab.search.proposer import Growth, LanguageModelProposer
from trimtab.serve.engine_handle import Handle
from trimtab.serve.engine_parts import DecoderParts
from trimtab.serve.engine_tokens import Details, TokenTexts
from trimtab.serve.requests import Candidate, ChoiceEnd, GenerationRequest, SearchStep, TextPiece, Token, Usage
from trimtab.serve.row_pool import Row, RowPool


@dataclass(eq=False)
class Entry:
    """A request that was taken on, and what it has cost so far.

    `prompt_ids`: the prompt as the model reads it. `prompt`: its text, also where the request has ids, or its messages.
    `echo`: the prompt's tokens, once they are known.
    """

    request: GenerationRequest
    handle: Handle
    parts: DecoderParts
    texts: TokenTexts
    prompt_ids: list[int]
    prompt: PromptInput
    search: Search
    proposer: LanguageModelProposer
    choices: list["Choice"] = field(default_factory=list)
    echo: tuple[Token, ...] | None = None
    submitted: float = 0.0
    returned: int = 0
    drawn: int = 0
    guide: float = 0.0
    flops: float = 0.0
    ended: bool = False

    @property
    def usage(self) -> Usage:
        return Usage(len(self.prompt_ids), self.returned, self.drawn, round(self.guide), self.flops)


@dataclass(frozen=True)
class ValuedRows:
    """The rows of one choice's open beams in a state of its value, which other choices may share."""

    state: Any
    rows: Sequence[int]


class Choice:
    """Choice `index` of a request. While it runs, `rows` are the rows of its open beams, or of what grows from them.

    Attributes:
        pool, rows: where its rows stand, and they; None while it waits for its first rows, or to have them made again
            after memory ran out.
        valued: the rows of its open beams in a state of the value, None where nothing values them.
        growing: what grows in this chunk, each with its row; empty between two chunks.
        attempts: how often memory ran out since its last token while it ran alone.
        candidates, parents: after `grow`, the responses to be judged, and the open beam that each extends.
    """

    def __init__(self, entry: Entry, index: int, prompt: Prompt) -> None:
        self.entry, self.index, self.prompt = entry, index, prompt
        self.running: RunningSearch | None = None
        self.rows: list[Row] | None = None
        self.pool: RowPool | None = None
        self.valued: ValuedRows | None = None
        self.growing: list[Growth] = []
        self.fresh = False  # the growing forks have drawn nothing yet, and share their parents' rows
        self.waited = False  # rows of this chunk have waited for longer ones, and have read their last token
        self.candidates: list[Hypothesis] = []
        self.parents: list[int] = []
        self.ended = False
        self.attempts = 0
        self._key = prompt_key(prompt.id)
        self._grown: list[Growth] = []
        self._open: list[list[int]] = [[]]
        self._tokens = 0
        self._places: list[int | None] = []
        self._kept: list[Beam] = []
        self._sent = ""
        self._details: list[Details] = []
        self._told = 0  # how many of the response's tokens have been sent

    # ------------------------------------------------------------------------------------------- one chunk of tokens

    @property
    def wants_details(self) -> bool:
        """Whether log-probabilities are noted at each draw; a search's answer is scored at the end instead."""
        return self.entry.request.logprobs is not None and self.entry.search.candidates == 1

    @property
    def responses(self) -> list[list[int]]:
        """The response that each of `rows` stands for."""
        if self.growing and not self.fresh:
            return [[*growth.fork.token_ids, *growth.token_ids] for growth in self.growing]
        return self._open

    def begin(self) -> None:
        """Start the search, once the prompt has been read."""
        if self.running is None:
            self.running = RunningSearch(self.entry.search, [self.prompt], [self.entry.prompt_ids])

    def fork(self) -> None:
        """Begin a chunk, unless one is growing."""
        if self.growing:
            return
        assert self.running is not None
        forks, self._tokens = self.running.fork()
        prompts = [self.entry.prompt_ids] * len(self._open)
        self._grown = self.entry.proposer.growths(forks, self.entry.search.max_new_tokens, prompts)
        self.growing, self.fresh, self.waited = self._grown, True, False

    def sources(self) -> list[Row]:
        """The row whose logits each growing fork draws from."""
        assert self.rows is not None
        return [self.rows[growth.fork.row] for growth in self.growing] if self.fresh else self.rows

    def numbers(self) -> np.ndarray:
        """The random number of each growing fork's next token."""
        keys = np.full(len(self.growing), self._key, dtype=np.uint64)
        slots = np.array([growth.fork.slot for growth in self.growing], dtype=np.uint64)
        places = [len(growth.fork.token_ids) + len(growth.token_ids) for growth in self.growing]
        return uniforms(self.entry.proposer.seed, keys, slots, np.array(places, dtype=np.uint64))

    def take(self, drawn: Sequence[int], details: Sequence[Details] | None) -> list[Row]:
        """Add a token to each growing fork; the rows of those that have ended, which are free now."""
        assert self.rows is not None
        self.attempts = 0
        self.entry.drawn += sum(growth.grows for growth in self.growing)
        if details is not None and drawn[0] != FAILED:
            self._details += details
        self.entry.proposer.take(self.growing, drawn, [self.entry.prompt_ids] * len(self._open))
        ended = [row for growth, row in zip(self.growing, self.rows, strict=True) if growth.finish is not None]
        going = [pair for pair in zip(self.growing, self.rows, strict=True) if pair[0].finish is None]
        self.growing, self.rows = [growth for growth, _ in going], [row for _, row in going]
        self._tokens -= 1
        self.waited |= any(growth.waits for growth in self.growing)
        return ended

    @property
    def chunk_done(self) -> bool:
        return self._tokens == 0 or all(growth.waits for growth in self.growing)

    # ------------------------------------------------------------------------------------------- one step of the search

    def grow(self) -> None:
        """End a chunk: note the candidates, and which open beam each extends."""
        assert self.running is not None
        row_of = {growth.index: row for row, growth in enumerate(self.growing)}
        prompts = [self.entry.prompt_ids] * len(self._open)
        grown = self.entry.proposer.continuations(self._grown, row_of, prompts)
        self._places = [more.row for more in grown]
        self.parents = [growth.fork.row for growth in self._grown]
        self.candidates = self.running.grow(grown)

    @property
    def guide_tokens(self) -> int:
        """How many tokens of this chunk a guide reads that has the same vocabulary: each beam's last one once, and all
        new tokens but the last of each candidate."""
        parents = {growth.fork.row for growth in self._grown if growth.token_ids}
        return len(parents) + sum(max(0, len(growth.token_ids) - 1) for growth in self._grown)

    def select(self, values: Sequence[float] | None) -> tuple[Step, list[Row]]:
        """The step, and the rows of beams that do not go on, which are free now."""
        assert self.running is not None and self.rows is not None
        step = self.running.select(values)
        places = [self._places[index] for index in self.running.rows]
        rows = [] if step.finished else [self.rows[place] for place in places if place is not None]
        free = [row for row in self.rows if row not in rows]
        self._open = [beam.hypothesis.token_ids for beam in step.kept[0] if beam.open]
        self.rows, self.growing = rows, []
        self._tell(step)
        self._kept = step.kept[0]
        return step, free

    # ------------------------------------------------------------------------------------------------ what clients get

    def _tell(self, step: Step) -> None:
        request = self.entry.request
        if request.trace:
            self.entry.handle.put(self._search_step(step))
        if request.stream and not step.finished:
            self._send(agreed_text(step.kept[0]), step.kept[0][0].hypothesis.token_ids)

    def _search_step(self, step: Step) -> SearchStep:
        (candidates,), (kept,) = step.candidates, step.kept
        kept_as, held_as = ({id(beam): index for index, beam in enumerate(beams)} for beams in (kept, self._kept))
        valued = self.entry.parts.value is not None and self.entry.search.candidates > 1
        return SearchStep(
            self.index,
            step.number,
            tuple(
                Candidate(
                    text=beam.hypothesis.text,
                    value=beam.hypothesis.value if valued else None,
                    finish=beam.hypothesis.finish,
                    parent=held_as.get(id(beam), beam.parent),
                    kept=kept_as.get(id(beam)),
                    held=id(beam) in held_as,
                    tokens=len(beam.hypothesis.token_ids),
                    dropped="" if id(beam) in kept_as else _why_dropped(self.entry.search, len(kept)),
                )
                for beam in candidates
            ),
        )

    def _send(self, text: str, ids: Sequence[int], *, last: bool = False) -> None:
        """Send what the text has more than has been sent, with the tokens that wrote it.

        The tokens of a search, which are not settled before, come with the last piece.
        """
        whole = self.entry.search.candidates == 1
        new = ids[self._told :] if whole or last else []
        if len(text) > len(self._sent) or (last and new):
            details = self._details[self._told : self._told + len(new)] if self._details and new else None
            tokens = self.entry.texts.tokens(new, details)
            self.entry.handle.put(TextPiece(self.index, text[len(self._sent) :], tokens))
            self._sent, self._told = text, self._told + len(new)

    def send_echo(self) -> None:
        """Send the prompt with its tokens."""
        assert self.entry.echo is not None and isinstance(self.entry.prompt, str)
        self.entry.handle.put(TextPiece(self.index, self.entry.prompt, self.entry.echo, prompt=True))

    def finish_without_text(self) -> None:
        """End a choice that was to have no tokens."""
        self.entry.handle.put(ChoiceEnd(self.index, "length"))
        self.ended = True

    def answer(self, step: Step) -> Hypothesis:
        """The response, once the search has finished.

        Raises:
            ModelError: there is none, since logits or values are no numbers.
        """
        best = self.entry.search.answers(step)[0][0]
        if best.finish in SET_ASIDE:
            raise ModelError(f"the prompt has no response: {SET_ASIDE[best.finish]}")
        return best

    def finish(self, answer: Hypothesis, details: list[Details] | None = None) -> None:
        """Send the rest of the response, and its end."""
        if details is not None:
            self._details = details
        self._send(answer.text, answer.token_ids, last=True)
        self.entry.returned += len(answer.token_ids)
        valued = self.entry.parts.value is not None and self.entry.search.candidates > 1
        ended = ChoiceEnd(
            self.index,
            "length" if answer.finish == "length" else "stop",
            self._stop(answer) if answer.finish == "stop" else None,
            answer.value if valued else None,
        )
        self.entry.handle.put(ended)
        self.ended = True

    def _stop(self, answer: Hypothesis) -> str | int | None:
        """The stop token or string that ended the response."""
        last = answer.token_ids[-1]
        if last in self.entry.request.stop_token_ids:
            return last
        return self.entry.proposer.stopped_by(self.entry.prompt_ids, answer.token_ids)


def _why_dropped(search: Search, kept: int) -> str:
    """Why a candidate of a step is not among the `kept` ones."""
    if search.groups > 1:
        return f"not among the best {search.width // search.groups} of its group"
    if search.pool is not None:
        return f"not among the best {search.width} that go on, nor among the finished ones"
    return f"not among the best {kept}"
