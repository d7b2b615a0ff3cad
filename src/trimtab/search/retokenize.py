"""The same response in another vocabulary: text is encoded anew as it grows, and what has not changed is kept.

Knows nothing of models.

    >>> common_prefix([1, 2, 3], [1, 2, 4])
    2
"""

from collections.abc import Sequence


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """The number of ids, or of characters, that both begin with."""
    if right[: len(left)] == left:  # as wherever a response has only grown; many times faster
        return len(left)
    length = 0
    for first, second in zip(left, right, strict=False):
        if first != second:
            break
        length += 1
    return length
