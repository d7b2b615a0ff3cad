"""Rows of tokens in batches of like length, padded on the right, and their rewards in the order in which they came.

>>> in_batches([[1], [], [1, 2]], 2, lambda rows: [float(len(row)) for row in rows])
[1.0, nan, 2.0]
>>> padded([[5, 6], [7]], 0)[0].tolist()
[[5, 6], [7, 0]]
"""

import math
from collections.abc import Callable, Sequence

import torch


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


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each [rows, longest row]; `pad` fills the ids on the right.

    The right side is right for every family: positions start at 0, and a causal model reads padding only behind a text.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
