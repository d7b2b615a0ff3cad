"""The rows of one model that are decoded together, whoever owns them.

A row stands at a place of one common state. Rows enter, fork and leave between two tokens; only rows that change are
copied, and a row that leaves is replaced by the last one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.models.language_model import DecodeState, LanguageModel

SHORT = 512  # tokens of prompt and response: shorter ones are decoded together, longer ones in classes of 4 times that
SHRINK = 4  # a state that once had so many times the rows it has now is copied into a smaller one


def size_class(length: int) -> int:
    """The class of a response that has so many tokens with its prompt.

    All rows of a state have the memory of its longest one, so those of unlike classes are never put into one state.
    """
    return max(0, math.ceil(math.log(length / SHORT, 4)))


@dataclass(eq=False, slots=True)
class Row:
    """One row of a pool. `place` is its index in the pool's state."""

    place: int


class RowPool:
    """Rows of states of one kind of `model`."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._state: DecodeState | None = None
        self._rows: list[Row | None] = []  # None: the row has left, and its place is free
        self._most = 0

    def __len__(self) -> int:
        return sum(row is not None for row in self._rows)

    @property
    def ids(self) -> list[list[int]]:
        """The ids of the row at each place."""
        assert self._state is not None
        return self._state.ids

    def enter(self, state: DecodeState, rows: Sequence[int]) -> list[Row]:
        """Put a copy of these rows of a state into the pool."""
        if not len(self):
            self.drop()
        places = range(len(self._rows), len(self._rows) + len(rows))
        if self._state is None:
            self._state = state.select(rows)
        else:
            self._state.place(state, rows, places)
        new = [Row(place) for place in places]
        self._rows += new
        return new

    def fork(self, parents: Sequence[Row]) -> list[Row]:
        """A copy of each of these rows, which may be named more than once."""
        if not parents:
            return []
        assert self._state is not None
        places = range(len(self._rows), len(self._rows) + len(parents))
        self._state.place(self._state, [row.place for row in parents], places)
        new = [Row(place) for place in places]
        self._rows += new
        return new

    def free(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows[row.place] = None

    def read_again(self, rows: Sequence[Row]) -> None:
        """Have the last token of rows that had waited for others read again."""
        assert self._state is not None
        self._state.read_again([row.place for row in rows])

    def next_logits(self) -> torch.Tensor:
        """Logits [places, vocabulary] of the next token of each row."""
        self._close_gaps()
        assert self._state is not None
        return self.model.next_logits(self._state)

    def append(self, tokens: Sequence[int | None]) -> None:
        """One token for each place; None leaves a row unchanged."""
        assert self._state is not None
        self._state.append(tokens)

    def drop(self) -> None:
        """Forget all rows, and free their memory."""
        self._state, self._rows, self._most = None, [], 0

    def shrink(self) -> None:
        """Give the memory of rows that have left back."""
        if self._state is not None:
            self._most = SHRINK * len(self._rows)
            self._close_gaps()

    def _close_gaps(self) -> None:
        assert self._state is not None
        self._most = max(self._most, len(self._rows))
        live = [row for row in self._rows if row is not None]
        if len(live) * SHRINK <= self._most:
            self._state = self._state.select([row.place for row in live])
            self._most = len(live)
            for place, row in enumerate(live):
                row.place = place
        elif len(live) < len(self._rows):
            gaps = [place for place, row in enumerate(self._rows[: len(live)]) if row is None]
            movers = [row for row in self._rows[len(live) :] if row is not None]
            if gaps:
                self._state.place(self._state, [row.place for row in movers], gaps)
            for place, row in zip(gaps, movers, strict=True):
                row.place = place
            self._state.truncate(len(live))
        live.sort(key=lambda row: row.place)
        self._rows = [*live]
