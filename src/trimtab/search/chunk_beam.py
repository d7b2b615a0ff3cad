"""The one search: chunk-level beam search. Sampling and best-of-N are settings of it.

A step extends every open beam of a prompt by `successors` continuations of `chunk` tokens, values all candidates, and
keeps the best `width` (arXiv 2405.19262, algorithm 1). Base is (1, 1, none), best-of-N (1, N, none), CBS (W, K, L).
A prompt is set aside where a candidate's logits or value are not finite numbers.

    >>> Search(width=4, successors=4, chunk=5, max_new_tokens=40).candidates
    16
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, repeat
from typing import Literal, get_args

from trimtab.config.search import EarlyRejection, search_faults
from trimtab.errors import ConfigurationError, check_count, check_type, shown
from trimtab.models.language_model import raise_if_too_long
from trimtab.records import SET_ASIDE, Finish, Prompt
from trimtab.search.hypothesis import Beam, Hypothesis, Step
from trimtab.search.proposer import Continuation, Fork, Proposer
from trimtab.search.selection import beside_pool, best_of_groups, by_vote, distinct
from trimtab.search.value import Value, by_reward_alone

Duplicates = Literal["keep", "drop"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step does: each open beam grows by up to `tokens` tokens in `successors` ways, and `width` beams stay.

    With `same_slots` a beam goes on with the random stream that it has had so far.
    """

    tokens: int
    successors: int
    width: int
    same_slots: bool = False


@dataclass(frozen=True, repr=False)
class Search:
    """Settings of the search; docs/search-settings.md explains each.

    Each prompt's best `keep` finished hypotheses are returned (default: `width`); where that is more than `width`, they
    are taken from all candidates of the last step.

    Raises:
        ConfigurationError: settings that do not go together.
    """

    width: int = 1
    successors: int = 1
    chunk: int | None = None
    max_new_tokens: int = 50
    keep: int | None = None
    duplicates: Duplicates = "keep"
    groups: int = 1
    pool: int | None = None
    reject: EarlyRejection | None = None
    vote: str | None = None

    def __post_init__(self) -> None:
        for name in ("width", "successors", "chunk", "keep", "max_new_tokens", "groups", "pool"):
            if vars(self)[name] is not None or name not in ("chunk", "keep", "pool"):
                check_count(name, vars(self)[name])
        if self.duplicates not in get_args(Duplicates):
            raise ConfigurationError(
                f"duplicates is {shown(self.duplicates)}: give {' or '.join(get_args(Duplicates))}"
            )
        if isinstance(self.reject, Mapping):
            object.__setattr__(self, "reject", EarlyRejection(**self.reject))
        check_type(
            "reject", self.reject, EarlyRejection | None, 'its share and lengths, such as {"share": 0.5, "at": [8]}'
        )
        check_type("vote", self.vote, str | None, "a regular expression as a text")
        faults = search_faults(self.width, self.successors, self.chunk, self.groups, self.pool, self.reject, self.vote)
        if faults:
            raise ConfigurationError("; ".join(faults))

    def __repr__(self) -> str:
        changed = [field.name for field in fields(self) if vars(self)[field.name] != field.default]
        return f"Search({', '.join(f'{name}={vars(self)[name]!r}' for name in changed)})"

    @property
    def candidates(self) -> int:
        """The largest number of rows that a prompt takes."""
        return self.width * self.successors

    def too_long(self, prompt: Prompt, proposer: Proposer, value: Value | None) -> str | None:
        """Why a prompt leaves no room for a response to be written, or valued; None where it does."""
        room = self.max_new_tokens
        return proposer.too_long(prompt, room) or (None if value is None else value.too_long(prompt, room))

    def check_some_fit(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> None:
        """Raise ModelError where every prompt is too long, so that nothing is left to search."""
        reasons = (self.too_long(prompt, proposer, value) for prompt in prompts)
        first = next(reasons, None)
        if first is not None and all(reasons):  # after one that fits, none is encoded before its turn
            raise_if_too_long(first)

    def run(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> list[list[Hypothesis]]:
        """The best finished hypotheses of each prompt, best first; without a value in the order of their slots."""
        (last,) = deque(self.steps(prompts, proposer, value), maxlen=1)  # of long searches, one step is held at a time
        return self.answers(last)

    def answers(self, last: Step) -> list[list[Hypothesis]]:
        """What `run` returns, from the last of all steps."""
        count = self.width if self.keep is None else self.keep
        answers = []
        for candidates, kept in zip(last.candidates, last.kept, strict=True):
            stayed = {id(beam) for beam in (candidates if self.vote is not None or count > self.width else kept)}
            finished = [beam.hypothesis for beam in candidates if not beam.open and id(beam) in stayed]
            answers.append((finished if self.vote is None else by_vote(self.vote, finished))[:count])
        return answers

    def steps(self, prompts: Sequence[Prompt], proposer: Proposer, value: Value | None) -> Iterator[Step]:
        """All steps, until every kept hypothesis has finished.

        The states `proposed` and `valued` have a row for each open beam, in the beams' order.
        """
        proposed = proposer.start(prompts, self.max_new_tokens)
        valued = None if value is None else value.start(prompts, self.max_new_tokens)
        unvalued: Finish = "unrewarded" if value is not None and by_reward_alone(value) else "unvalued"
        beams = RunningSearch(self, prompts, proposer.prompt_ids(proposed), unvalued)
        while True:
            forks, tokens = beams.fork()
            proposed, grown = proposer.propose(proposed, forks, tokens)
            responses, values = beams.grow(grown), None
            if value is not None:
                valued, values = value.advance(valued, [fork.row for fork in forks], responses)
            step = beams.select(values)
            yield step
            if step.finished:
                return
            proposed = proposed.select([grown[row].row for row in beams.rows])
            valued = None if valued is None else valued.select(beams.rows)

    def stages(self) -> Iterator[Stage]:
        """What each step does. The first step has one beam for each prompt, in place of `width` equal ones.

        With `reject`, best-of-N drops its worst share at given lengths (speculative rejection, arXiv 2410.20290). What
        stays is, token for token, what best-of-N would have sampled: a sample keeps its random stream.
        """
        if self.reject is None:
            chunk = self.max_new_tokens if self.chunk is None else self.chunk
            yield Stage(chunk, self.candidates, self.width)
            yield from repeat(Stage(chunk, self.successors, self.width))
            return
        left, begin = self.candidates, 0
        for end in [*(length for length in self.reject.at if length < self.max_new_tokens), self.max_new_tokens]:
            stay = left if end == self.max_new_tokens else max(1, math.ceil(left * (1 - self.reject.share) - 1e-9))
            yield Stage(end - begin, 1 if begin else left, stay, same_slots=begin > 0)
            left, begin = stay, end


class RunningSearch:
    """The beams of a search while it runs, without the models that continue and judge them.

    `unvalued` is the reason that a prompt is set aside for where a value is not finite.
    A step is `fork`, `grow` and `select`, in this order.

    Attributes:
        rows: after `select`, the candidates of the step that go on, by their index among its forks.
    """

    def __init__(
        self,
        search: Search,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        unvalued: Finish = "unvalued",
    ) -> None:
        self._unvalued = unvalued
        self._search, self._stages, self._number = search, search.stages(), 0
        read = zip(prompts, prompt_ids, strict=True)
        self._beams = [[Beam(Hypothesis(prompt, ids, [], "", None))] for prompt, ids in read]
        self._new: list[Beam] = []
        self.rows: list[int] = []

    def fork(self) -> tuple[list[Fork], int]:
        """How the open beams are to be continued, and the number of tokens that each fork may grow by."""
        self._stage = next(self._stages)
        self._new, forks = _seeds(self._beams, self._stage, self._search.groups)
        room = self._search.max_new_tokens - min((len(fork.token_ids) for fork in forks), default=0)
        return forks, min(self._stage.tokens, room)

    def grow(self, grown: Sequence[Continuation]) -> list[Hypothesis]:
        """The responses that the forks have become; they have no values yet."""
        self._new = [
            replace(seed, hypothesis=self._grown(seed.hypothesis, more), settled=more.settled)
            for seed, more in zip(self._new, grown, strict=True)
        ]
        return [beam.hypothesis for beam in self._new]

    def select(self, values: Sequence[float] | None) -> Step:
        """The step, given the responses' values (None: nothing judges them)."""
        if values is not None:
            self._new = [
                replace(beam, hypothesis=replace(beam.hypothesis, value=value))
                for beam, value in zip(self._new, values, strict=True)
            ]
        step = self._selected()
        row_of = {id(beam): row for row, beam in enumerate(self._new)}
        self._beams, self._number = step.kept, self._number + 1
        self.rows = [row_of[id(beam)] for siblings in step.kept for beam in siblings if beam.open]
        return step

    def _selected(self) -> Step:
        """Each prompt's finished beams and new candidates, and the best `width` of them that its stage keeps."""
        search, width, children = self._search, self._stage.width, iter(self._new)
        candidates, kept = [], []
        for siblings in self._beams:
            finished = [beam for beam in siblings if not beam.open]
            count = self._stage.successors * (len(siblings) - len(finished))
            ranked = _ranked(_set_aside([*finished, *islice(children, count)], self._unvalued))
            ranked = distinct(ranked) if search.duplicates == "drop" else ranked
            candidates.append(ranked)
            if search.pool is not None:
                kept.append(beside_pool(ranked, finished, search.pool, width))
            elif search.groups > 1:
                kept.append(best_of_groups(ranked, search.groups, width))
            else:  # a finished hypothesis holds its slot and competes (arXiv 2405.19262, algorithm 1)
                kept.append(ranked[:width])
        return Step(self._number, candidates, kept)

    def _grown(self, response: Hypothesis, more: Continuation) -> Hypothesis:
        """The continued response; it has no value yet."""
        token_ids = [*response.token_ids, *more.token_ids]
        finish = more.finish or ("length" if len(token_ids) >= self._search.max_new_tokens else None)
        return replace(response, token_ids=token_ids, text=more.text, finish=finish, value=0.0)


def _seeds(beams: list[list[Beam]], stage: Stage, groups: int) -> tuple[list[Beam], list[Fork]]:
    """The open beams, each as often as it has successors, with the new slot, parent and group; and their forks.

    A slot numbers the successors of all of a prompt's beams, or stays the beam's own where the stage says so. The
    groups of the first stage are equal ranges of slots.
    """
    seeds, forks, row = [], [], 0
    for siblings in beams:
        for index, beam in enumerate(siblings):
            if not beam.open:
                continue
            token_ids = beam.hypothesis.token_ids
            for successor in range(stage.successors):
                slot = beam.slot if stage.same_slots else index * stage.successors + successor
                group = beam.group if token_ids else slot * groups // stage.successors
                seeds.append(Beam(beam.hypothesis, slot, parent=index, group=group))
                forks.append(Fork(row, slot, token_ids))
            row += 1
    return seeds, forks


def _ranked(candidates: list[Beam]) -> list[Beam]:
    """The candidates sorted by value, best first; candidates with equal values, or without values, keep their order."""
    return sorted(candidates, key=lambda beam: beam.hypothesis.value, reverse=True)


def _set_aside(candidates: list[Beam], unvalued: Finish) -> list[Beam]:
    """A prompt's candidates; or one without text, where one has no finite logits, was too long, or has no finite value
    (for the reason `unvalued`)."""
    for beam in candidates:
        hypothesis = beam.hypothesis
        if hypothesis.finish in SET_ASIDE or not math.isfinite(hypothesis.value):
            why = hypothesis.finish if hypothesis.finish in SET_ASIDE else unvalued
            return [replace(beam, hypothesis=replace(hypothesis, token_ids=[], text="", finish=why, value=0.0))]
    return candidates
