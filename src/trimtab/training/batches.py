"""Which rows stand in a batch together, and the order in which batches come.

Knows nothing of what a row holds but its length.

    >>> list(BatchOrder(5, batch_size=2, seed=0))
    [2, 3, 0, 1, 4]
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from torch.utils.data import Sampler

WINDOW = 50  # batches whose rows are sorted by length together


class HasLength(Protocol):
    """A row of training data."""

    @property
    def length(self) -> int:
        """Tokens that the row takes in a batch."""
        ...


Row = TypeVar("Row", bound=HasLength)


def arrange(rows: Sequence[Row], batch_size: int, seed: int) -> list[Row]:
    """The rows in an order whose runs of `batch_size` are the batches: drawn at random, then of like length.

    Little is padded, as in transformers' `group_by_length`: within each window of `WINDOW` batches rows are sorted.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    window = batch_size * WINDOW
    arranged: list[Row] = []
    for start in range(0, len(rows), window):
        arranged += sorted((rows[index] for index in order[start : start + window]), key=_length, reverse=True)
    return arranged


def _length(row: HasLength) -> int:
    return row.length


class BatchOrder(Sampler[int]):
    """Rows batch by batch, the batches in a new order each epoch, what is in a batch always the same.

    A sequence's log-probability depends in its last digits on the shape of the batch it stands in. With fixed batches
    the reference, computed once, is exact for every step: an untuned model has rewards of exactly 0.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        whole = self.count // self.batch_size
        for batch in np.random.default_rng([self.seed, self.epoch]).permutation(whole):
            yield from range(int(batch) * self.batch_size, (int(batch) + 1) * self.batch_size)
        # A last, smaller batch elsewhere would shift the rows of all that follow it.
        yield from range(whole * self.batch_size, self.count)
