"""Rows of tokens in batches of like length, and their rewards in the order in which they came.

Knows nothing of models.

    >>> in_batches([[1], [], [1, 2]], 2, lambda rows: [float(len(row)) for row in rows])
    [1.0, nan, 2.0]
"""

import math
from collections.abc import Callable, Sequence


def in_batches(
    rows: Sequence[list[int]], batch_size: int, forward: Callable[[list[list[int]]], list[float]]
) -> list[float]:
    """What `forward` gives for each row, asked for `batch_size` rows of like length at a time; NaN for an empty one."""
    order = sorted((number for number, row in enumerate(rows) if row), key=lambda number: len(rows[number]))
    values = [math.nan] * len(rows)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for number, value in zip(batch, forward([rows[number] for number in batch]), strict=True):
            values[number] = value
    return values
