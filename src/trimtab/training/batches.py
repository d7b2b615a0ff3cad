"""Which rows are in a batch together, and the order of the batches.

>>> list(BatchOrder(5, batch_size=2, seed=3))
[2, 3, 0, 1, 4]
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler

from trimtab.training.tokens import PairTokens, TextTokens

SORTED_BATCHES = 50  # batches whose rows are sorted by length together
Row = TypeVar("Row", PairTokens, TextTokens)


def arrange(rows: Sequence[Row], batch_size: int, seed: int) -> list[Row]:
    """The rows in a new order; every `batch_size` consecutive ones are a batch, random rows of similar length.

    Rows are sorted by length within every `SORTED_BATCHES` batches, so that little is padded (as by transformers'
    `group_by_length`).
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    window = batch_size * SORTED_BATCHES
    arranged: list[Row] = []
    for start in range(0, len(rows), window):
        drawn = [rows[index] for index in order[start : start + window]]
        arranged += sorted(drawn, key=lambda row: row.length, reverse=True)
    return arranged


class BatchOrder(Sampler[int]):
    """Rows batch by batch: the batches in a new order each epoch, the rows of a batch always the same.

    The last digits of a sequence's log-probability depend on the shape of its batch. With fixed batches the reference,
    computed once, is exact for every step: an untuned model has rewards of exactly 0.
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
