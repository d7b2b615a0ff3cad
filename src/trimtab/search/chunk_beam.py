"""The one search: chunk-level beam search, of which sampling and best-of-N are settings.

A step continues every open beam of a prompt by `successors` continuations of `chunk` tokens, values all candidates, and
keeps the best `width` (arXiv 2405.19262, algorithm 1). Base is (1, 1, none), best-of-N (1, N, none), CBS (W, K, L).
A finished hypothesis holds its slot and competes. A prompt is set aside where a candidate's logits or value are no
finite numbers. Candidates come from a `Proposer`, their worth from a `Value`.

    >>> search = Search(width=4, successors=4, chunk=5, max_new_tokens=40)
    >>> search.candidates
    16
"""

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from trimtab.config.search import EarlyRejection, search_faults
from trimtab.errors import ConfigurationError
from trimtab.models.language_model import raise_if_too_long
from trimtab.records import SET_ASIDE, Prompt
from trimtab.search.hypothesis import Hypothesis, Step
from trimtab.search.proposer import Continuation, Fork, Proposer, ProposerState
from trimtab.search.schedule import Stage, beam_stages, rejection_stages
from trimtab.search.selection import Choose, beside_pool, best, by_vote, distinct, in_groups
from trimtab.search.value import Candidate, Value, ValueState


@dataclass
class _Frontier:
    """Where the search stands: each prompt's beams, and the states behind those that can go on."""

    beams: list[list[Hypothesis]]
    proposed: ProposerState
    valued: ValueState | None


class _Seed(NamedTuple):
    """A beam that grows into a candidate, and the candidate's slot, parent and group."""

    beam: Hypothesis
    slot: int
    parent: int
    group: int

    def grown(self, to: Candidate, value: float, proposer_row: int | None, value_row: int) -> Hypothesis:
        beam = self.beam
        return Hypothesis(
            prompt=beam.prompt,
            prompt_ids=beam.prompt_ids,
            token_ids=to.token_ids,
            text=to.text,
            finish=to.finish,
            value=value,
            proposer_row=proposer_row,
            value_row=value_row,
            slot=self.slot,
            parent=self.parent,
            group=self.group,
        )


@dataclass(frozen=True)
class Search:
    """Settings of the search; docs/search.md has three lines on each.

    Of the finished hypotheses the best `keep` a prompt are returned (default: `width`); more than `width` are taken
    from all candidates of the last step.

    Raises:
        ConfigurationError: settings that do not go together.
    """

    width: int = 1
    successors: int = 1
    chunk: int | None = None
    max_new_tokens: int = 50
    keep: int | None = None
    duplicates: Literal["keep", "drop"] = "keep"
    groups: int = 1
    pool: int | None = None
    reject: EarlyRejection | None = None
    vote: str | None = None

    def __post_init__(self) -> None:
        counts = {
            "width": self.width, "successors": self.successors, "chunk": self.chunk, "keep": self.keep,
            "max_new_tokens": self.max_new_tokens, "groups": self.groups, "pool": self.pool,
        }  # fmt: skip
        for name, count in counts.items():
            if count is not None and (not isinstance(count, numbers.Integral) or isinstance(count, bool)):
                raise ConfigurationError(f"{name} is {count!r}: give a whole number")
            if count is not None and count < 1:
                raise ConfigurationError(f"{name} is {count}: give at least 1")
        faults = search_faults(self.width, self.successors, self.chunk, self.groups, self.pool, self.reject, self.vote)
        if faults:
            raise ConfigurationError("; ".join(faults))

    @property
    def candidates(self) -> int:
        """Rows that a prompt takes at most."""
        return self.width * self.successors

    def too_long(self, prompt: Prompt, proposer: Proposer, value: Value | None) -> str | None:
        """Why a prompt leaves no room for a response to be written, or valued; None where it does."""
        room = self.max_new_tokens
        return proposer.too_long(prompt, room) or (None if value is None else value.too_long(prompt, room))

    def check_some_fit(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> None:
        """Raise ModelError where every prompt is too long, so that nothing is left to search."""
        first = None
        for prompt in prompts:
            reason = self.too_long(prompt, proposer, value)
            if reason is None:
                return  # the others are encoded when it is their turn
            first = first or reason
        raise_if_too_long(first)

    def run(
        self,
        prompts: Sequence[Prompt],
        proposer: Proposer,
        value: Value | None,
        observe: Callable[[Step], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best finished hypotheses of each prompt, best value first, or in the order of their slots.

        `observe` is told of every step.
        """
        for step in self.steps(prompts, proposer, value):
            if observe is not None:
                observe(step)
        return self.answers(step)

    def answers(self, last: Step) -> list[list[Hypothesis]]:
        """What `run` returns, from the last of all steps."""
        count = self.width if self.keep is None else self.keep
        everything = self.vote is not None or count > self.width
        found = [self._finished(*groups, everything) for groups in zip(last.candidates, last.kept, strict=True)]
        return [group[:count] for group in found]

    def steps(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> Iterator[Step]:
        """All steps, until every kept hypothesis has finished."""
        proposed = proposer.start(prompts, self.max_new_tokens)
        valued = None if value is None else value.start(prompts, self.max_new_tokens)
        read = proposer.prompt_ids(proposed)
        roots = [[Hypothesis(n, read[n], [], "", None, 0.0, proposer_row=n, value_row=n)] for n in range(len(prompts))]
        frontier = _Frontier(roots, proposed, valued)
        for number, stage in enumerate(self._stages()):
            step = self._step(number, stage, frontier, proposer, value)
            yield step
            if step.finished:
                return

    def _stages(self) -> Iterator[Stage]:
        if self.reject is not None:
            return rejection_stages(self.reject, self.candidates, self.max_new_tokens)
        chunk = self.max_new_tokens if self.chunk is None else self.chunk
        return beam_stages(self.width, self.successors, chunk)

    def _choice(self) -> Choose:
        if self.pool is not None:
            return beside_pool(self.pool)
        return best if self.groups == 1 else in_groups(self.groups)

    def _step(self, number: int, stage: Stage, frontier: _Frontier, proposer: Proposer, value: Value | None) -> Step:
        """Continue the open beams, value their candidates, keep the best `width` of each prompt."""
        seeds, forks = _forks(frontier.beams, stage, self.groups)
        left = self.max_new_tokens - min((len(seed.beam.token_ids) for seed in seeds), default=0)
        frontier.proposed, grown = proposer.propose(frontier.proposed, forks, min(stage.tokens, left))
        responses = self._grow(seeds, grown, proposer)
        values = [0.0] * len(seeds)
        if value is not None and frontier.valued is not None:
            rows = [seed.beam.value_row for seed in seeds]
            frontier.valued, values = value.advance(frontier.valued, rows, responses)
        candidates = [
            seed.grown(response, worth, more.row, row)
            for row, (seed, response, worth, more) in enumerate(zip(seeds, responses, values, grown, strict=True))
        ]
        groups = _compete(frontier.beams, candidates, ranked=value is not None)
        if self.duplicates == "drop":
            groups = [distinct(group) for group in groups]
        choose, held = self._choice(), [[beam for beam in beams if not beam.open] for beams in frontier.beams]
        _keep(frontier, [choose(group, old, stage.width) for group, old in zip(groups, held, strict=True)])
        return Step(number, groups, frontier.beams)

    def _grow(self, seeds: Sequence[_Seed], grown: Sequence[Continuation], proposer: Proposer) -> list[Candidate]:
        """What the seeds have grown to."""
        responses = [[*seed.beam.token_ids, *more.token_ids] for seed, more in zip(seeds, grown, strict=True)]
        texts = proposer.texts([seed.beam.prompt_ids for seed in seeds], responses)
        return [
            Candidate(ids, text, more.finish or ("length" if len(ids) >= self.max_new_tokens else None))
            for ids, text, more in zip(responses, texts, grown, strict=True)
        ]

    def _finished(
        self, candidates: Sequence[Hypothesis], kept: Sequence[Hypothesis], everything: bool
    ) -> list[Hypothesis]:
        """A prompt's finished hypotheses in the order in which they are returned."""
        stayed = {id(each) for each in kept}
        found = [each for each in candidates if not each.open and (everything or id(each) in stayed)]
        return found if self.vote is None else by_vote(self.vote, found)


def _forks(beams: list[list[Hypothesis]], stage: Stage, groups: int) -> tuple[list[_Seed], list[Fork]]:
    """The open beams, each as often as it has successors, and their forks.

    A slot is a beam's place and its successor's, or its parent's where a stage says so; the groups of the first stage
    are equal ranges of slots.
    """
    seeds, forks = [], []
    for group in beams:
        for place, beam in enumerate(group):
            if not beam.open:
                continue
            assert beam.proposer_row is not None
            for successor in range(stage.successors):
                slot = beam.slot if stage.same_slots else place * stage.successors + successor
                member = beam.group if beam.token_ids else slot * groups // stage.successors
                seeds.append(_Seed(beam, slot, place, member))
                forks.append(Fork(beam.proposer_row, slot, beam.token_ids))
    return seeds, forks


def _compete(beams: list[list[Hypothesis]], candidates: list[Hypothesis], *, ranked: bool) -> list[list[Hypothesis]]:
    """Each prompt's finished beams and new candidates, best first where they are valued; equals keep their order."""
    groups = [[beam for beam in group if not beam.open] for group in beams]
    for each in candidates:
        groups[each.prompt].append(each)
    groups = [_set_aside(group) for group in groups]
    if not ranked:
        return groups
    return [sorted(group, key=lambda each: each.value, reverse=True) for group in groups]


def _set_aside(group: list[Hypothesis]) -> list[Hypothesis]:
    """The prompt's candidates; in their place one that says so where any of them is of no finite number, or refused."""
    for each in group:
        if each.finish in SET_ASIDE or not math.isfinite(each.value):
            why = each.finish if each.finish in SET_ASIDE else "unvalued"
            return [replace(each, token_ids=[], text="", finish=why, value=0.0)]
    return group


def _keep(frontier: _Frontier, kept: list[list[Hypothesis]]) -> None:
    """Make `kept` the beams: drop all rows but those of the ones that go on, and number these anew."""
    going = [each for group in kept for each in group if each.open]
    frontier.proposed = frontier.proposed.select([each.proposer_row for each in going if each.proposer_row is not None])
    if frontier.valued is not None:
        frontier.valued = frontier.valued.select([each.value_row for each in going])
    row_of = {id(each): row for row, each in enumerate(going)}
    frontier.beams = [
        [
            replace(each, proposer_row=row_of[id(each)], value_row=row_of[id(each)]) if id(each) in row_of else each
            for each in group
        ]
        for group in kept
    ]
