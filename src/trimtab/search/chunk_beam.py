"""The one search: chunk-level beam search, of which sampling and best-of-N are settings.

A step continues every open beam of a prompt by `successors` continuations of `chunk` tokens, values all candidates, and
keeps the best `width` (arXiv 2405.19262, algorithm 1). Base is (1, 1, none), best-of-N (1, N, none), CBS (W, K, L).
A finished hypothesis holds its slot and competes. A prompt is set aside where a candidate's logits or value are no
finite numbers. Knows nothing of models: candidates come from a `Proposer`, their worth from a `Value`.

    >>> search = Search(width=4, successors=4, chunk=5, max_new_tokens=40)
    >>> search.candidates
    16
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from trimtab.records import Finish, Prompt
from trimtab.search.proposer import Continuation, Fork, Proposer, ProposerState
from trimtab.search.value import Candidate, Value, ValueState


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One response to prompt number `prompt`, which the proposer reads as `prompt_ids`.

    `finish` is None while it can go on; `value` is 0 where the search has no value. `proposer_row` and `value_row` are
    its rows in the two states.
    """

    prompt: int
    prompt_ids: list[int]
    token_ids: list[int]
    text: str
    finish: Finish | None
    value: float
    proposer_row: int | None
    value_row: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the search: all candidates by prompt, best first, and the first `width` of each, which go on."""

    number: int
    candidates: list[list[Hypothesis]]
    kept: list[list[Hypothesis]]

    @property
    def finished(self) -> bool:
        return all(beam.finish is not None for beams in self.kept for beam in beams)


@dataclass
class _Frontier:
    """Where the search stands: each prompt's beams, and the states behind those that can go on."""

    beams: list[list[Hypothesis]]
    proposed: ProposerState
    valued: ValueState | None


@dataclass(frozen=True)
class Search:
    """Settings of the search. Of the last step's finished candidates the best `keep` a prompt are returned
    (default: `width`)."""

    width: int = 1
    successors: int = 1
    chunk: int | None = None
    max_new_tokens: int = 50
    keep: int | None = None

    @property
    def candidates(self) -> int:
        """Rows that a prompt takes at most."""
        return self.width * self.successors

    def run(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> list[list[Hypothesis]]:
        """The best finished hypotheses of each prompt, best value first, or in the order of their slots."""
        *_, last = self.steps(prompts, proposer, value)
        finished = [[each for each in group if each.finish is not None] for group in last.candidates]
        return [group[: self.keep or self.width] for group in finished]

    def steps(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> Iterator[Step]:
        """All steps, until every kept hypothesis has finished."""
        proposed = proposer.start(prompts, self.max_new_tokens)
        valued = None if value is None else value.start(prompts, self.max_new_tokens)
        read = proposer.prompt_ids(proposed)
        roots = [[Hypothesis(n, read[n], [], "", None, 0.0, proposer_row=n, value_row=n)] for n in range(len(prompts))]
        frontier = _Frontier(roots, proposed, valued)
        # the first step has one beam a prompt to continue, which stands in for all `width` of them
        successors, number = self.candidates, 0
        while True:
            step = self._step(number, frontier, successors, proposer, value)
            yield step
            if step.finished:
                return
            successors, number = self.successors, number + 1

    def _step(self, number: int, frontier: _Frontier, successors: int, proposer: Proposer, value: Value | None) -> Step:
        """Continue the open beams, value their candidates, keep the best `width` of each prompt."""
        parents, forks = _forks(frontier.beams, successors)
        left = self.max_new_tokens - number * (self.chunk or 0)
        frontier.proposed, grown = proposer.propose(frontier.proposed, forks, min(self.chunk or left, left))
        candidates = [self._grow(parent, more, proposer) for parent, more in zip(parents, grown, strict=True)]
        if value is not None and frontier.valued is not None:
            seen = [Candidate(each.token_ids, each.text, each.finish) for each in candidates]
            rows = [parent.value_row for parent in parents]
            frontier.valued, values = value.advance(frontier.valued, rows, seen)
            candidates = [
                replace(each, value=worth, value_row=row)
                for row, (each, worth) in enumerate(zip(candidates, values, strict=True))
            ]
        groups = _compete(frontier.beams, candidates, ranked=value is not None)
        _keep(frontier, [group[: self.width] for group in groups])
        return Step(number, groups, frontier.beams)

    def _grow(self, parent: Hypothesis, more: Continuation, proposer: Proposer) -> Hypothesis:
        ids = [*parent.token_ids, *more.token_ids]
        finish: Finish | None = more.finish or ("length" if len(ids) >= self.max_new_tokens else None)
        text = proposer.text(parent.prompt_ids, ids)
        return replace(parent, token_ids=ids, text=text, finish=finish, proposer_row=more.row)


def _forks(beams: list[list[Hypothesis]], successors: int) -> tuple[list[Hypothesis], list[Fork]]:
    """The open beams, each `successors` times, and their forks; a slot is a beam's place and its successor's."""
    parents, forks = [], []
    for group in beams:
        for place, beam in enumerate(group):
            if beam.finish is not None:
                continue
            assert beam.proposer_row is not None
            for successor in range(successors):
                parents.append(beam)
                forks.append(Fork(beam.proposer_row, place * successors + successor, beam.token_ids))
    return parents, forks


def _compete(beams: list[list[Hypothesis]], candidates: list[Hypothesis], *, ranked: bool) -> list[list[Hypothesis]]:
    """Each prompt's finished beams and new candidates, best first where they are valued; equals keep their order."""
    groups = [[beam for beam in group if beam.finish is not None] for group in beams]
    for each in candidates:
        groups[each.prompt].append(each)
    groups = [_set_aside(group) for group in groups]
    if not ranked:
        return groups
    return [sorted(group, key=lambda each: each.value, reverse=True) for group in groups]


def _set_aside(group: list[Hypothesis]) -> list[Hypothesis]:
    """The prompt's candidates; in their place one that says so where any of them is of no finite number."""
    for each in group:
        if each.finish == "failed" or not math.isfinite(each.value):
            return [replace(each, token_ids=[], text="", finish="failed", value=0.0)]
    return group


def _keep(frontier: _Frontier, kept: list[list[Hypothesis]]) -> None:
    """Make `kept` the beams: drop all rows but those of the ones that go on, and number these anew."""
    going = [each for group in kept for each in group if each.finish is None]
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
