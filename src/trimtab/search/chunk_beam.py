"""The one search: chunk-level beam search, of which sampling and best-of-N are settings.

A step continues every open beam of a prompt by `successors` continuations of `chunk` tokens, values all candidates, and
keeps the best `width` (arXiv 2405.19262, algorithm 1). Base is (1, 1, none), best-of-N (1, N, none), CBS (W, K, L).
A finished hypothesis holds its slot and competes. Knows nothing of models: candidates come from a `Proposer`, their
worth from a `Value`.

    >>> search = Search(width=4, successors=4, chunk=5, max_new_tokens=40)
    >>> search.candidates
    16
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from trimtab.records import Finish, Prompt
from trimtab.search.proposer import Continuation, Fork, Proposer, ProposerState
from trimtab.search.value import Candidate, Value, ValueState


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One response to prompt number `prompt`. `rows` are its rows in the proposer's and the value's state.

    `finish` is None while it can go on; `value` is 0 where the search has no value.
    """

    prompt: int
    token_ids: list[int]
    text: str
    finish: Finish | None
    value: float
    proposer_row: int | None = None
    value_row: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the search: all candidates, by prompt, best first; the first `width` of each go on."""

    number: int
    candidates: list[list[Hypothesis]]
    kept: list[list[Hypothesis]]

    @property
    def finished(self) -> bool:
        return all(beam.finish is not None for beams in self.kept for beam in beams)


@dataclass(frozen=True)
class Search:
    """Settings of the search; `keep` hypotheses a prompt are returned, at least `width` (default: `width`)."""

    width: int = 1
    successors: int = 1
    chunk: int | None = None
    max_new_tokens: int = 50
    keep: int | None = None

    @property
    def candidates(self) -> int:
        """Rows a prompt takes at most."""
        return self.width * self.successors

    def run(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> list[list[Hypothesis]]:
        """The best `keep` finished hypotheses of each prompt, best value first."""
        last: Step | None = None
        for step in self.steps(prompts, proposer, value):
            last = step
        assert last is not None
        count = self.keep or self.width
        return [beams if count <= self.width else found[:count] for beams, found in zip(last.kept, last.candidates, strict=True)]

    def steps(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> Iterator[Step]:
        """All steps, until every kept hypothesis has finished. Without a value, candidates keep their order."""
        proposed = proposer.start(prompts, self.max_new_tokens)
        valued = None if value is None else value.start(prompts, self.max_new_tokens)
        roots = [Hypothesis(n, [], "", None, 0.0, proposer_row=n, value_row=n) for n in range(len(prompts))]
        # the first step has one beam to continue, which stands in for all `width` of them
        beams, successors, number = [[root] for root in roots], self.width * self.successors, 0
        prompt_ids = proposer.prompt_ids(proposed)
        while True:
            proposed, valued, step = self._step(number, beams, successors, prompt_ids, proposer, proposed, value, valued)
            yield step
            if step.finished:
                return
            beams, successors, number = step.kept, self.successors, number + 1

    def _step(
        self,
        number: int,
        beams: list[list[Hypothesis]],
        successors: int,
        prompt_ids: list[list[int]],
        proposer: Proposer,
        proposed: ProposerState,
        value: Value | None,
        valued: ValueState | None,
    ) -> tuple[ProposerState, ValueState | None, Step]:
        """Continue, value, choose."""
        parents, forks = _forks(beams, successors)
        done = number * (self.chunk or 0)
        tokens = min(self.chunk or self.max_new_tokens, self.max_new_tokens - done)
        proposed, continuations = proposer.propose(proposed, forks, tokens)
        grown = [
            self._grown(parent, continuation, prompt_ids[parent.prompt], proposer)
            for parent, continuation in zip(parents, continuations, strict=True)
        ]
        if value is not None and valued is not None:
            candidates = [Candidate(each.token_ids, each.text, each.finish) for each in grown]
            valued, values = value.advance(valued, [parent.value_row for parent in parents], candidates)
            grown = [replace(each, value=worth, value_row=row) for row, (each, worth) in enumerate(zip(grown, values, strict=True))]
        found = _by_prompt(beams, grown)
        if value is not None:
            found = [sorted(group, key=lambda each: each.value, reverse=True) for group in found]
        kept = [group[: self.width] for group in found]
        proposed, valued, kept = _keep(kept, proposed, valued)
        return proposed, valued, Step(number, found, kept)

    def _grown(
        self, parent: Hypothesis, continuation: Continuation, prompt_ids: list[int], proposer: Proposer
    ) -> Hypothesis:
        ids = [*parent.token_ids, *continuation.token_ids]
        ended = continuation.finish
        finish: Finish | None = ended if ended else "length" if len(ids) >= self.max_new_tokens else None
        text = proposer.text(prompt_ids, ids)
        return Hypothesis(parent.prompt, ids, text, finish, parent.value, continuation.row, parent.value_row)


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
                forks.append(Fork(beam.proposer_row, place * successors + successor, len(beam.token_ids)))
    return parents, forks


def _by_prompt(beams: list[list[Hypothesis]], grown: list[Hypothesis]) -> list[list[Hypothesis]]:
    """All candidates of each prompt: finished beams as they are, then the new ones in the order of their slots."""
    found = [[beam for beam in group if beam.finish is not None] for group in beams]
    for each in grown:
        found[each.prompt].append(each)
    return found


def _keep(
    kept: list[list[Hypothesis]], proposed: ProposerState, valued: ValueState | None
) -> tuple[ProposerState, ValueState | None, list[list[Hypothesis]]]:
    """Drop all rows but those of kept hypotheses that go on, and number these anew."""
    going = [each for group in kept for each in group if each.finish is None]
    row_of = {id(each): row for row, each in enumerate(going)}
    proposed = proposed.select([each.proposer_row for each in going if each.proposer_row is not None])
    if valued is not None:
        valued = valued.select([each.value_row for each in going])
    renumbered = [
        [
            replace(each, proposer_row=row_of[id(each)], value_row=row_of[id(each)]) if each.finish is None else each
            for each in group
        ]
        for group in kept
    ]
    return proposed, valued, renumbered
