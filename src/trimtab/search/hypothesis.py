"""What a search holds: hypotheses, and the steps that they went through.

Knows nothing of how hypotheses come about or are chosen.

    >>> Hypothesis(prompt=0, prompt_ids=[1], token_ids=[], text="", finish=None, value=0.0).open
    True
"""

from dataclasses import dataclass

from trimtab.records import Finish


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One response to prompt number `prompt`, which the proposer reads as `prompt_ids`.

    `finish` is None while it can go on; `value` is 0 where the search has no value. `proposer_row` and `value_row` are
    its rows in the two states. `slot` numbered its last chunk's draws, `parent` is the place that what it continues had
    among the step before's kept ones, and `group` is the group of beams that it competes in.
    """

    prompt: int
    prompt_ids: list[int]
    token_ids: list[int]
    text: str
    finish: Finish | None
    value: float
    proposer_row: int | None = None
    value_row: int = 0
    slot: int = 0
    parent: int = 0
    group: int = 0

    @property
    def open(self) -> bool:
        return self.finish is None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the search: all candidates by prompt, best first, and those of each that were kept."""

    number: int
    candidates: list[list[Hypothesis]]
    kept: list[list[Hypothesis]]

    @property
    def finished(self) -> bool:
        return not any(beam.open for beams in self.kept for beam in beams)
