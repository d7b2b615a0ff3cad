"""Short windows of reviews, on which reward and judge are fitted and measured: they will judge short texts."""

import numpy as np


def cut_snippet(text: str, words: tuple[int, int], rng: np.random.Generator) -> str:
    """A random window of `text`, its number of words drawn evenly from `words` (both ends included).

    White space becomes single spaces. A text with fewer words is returned whole.

    >>> cut_snippet("one two three", (2, 2), np.random.default_rng(0)) in ("one two", "two three")
    True
    """
    parts = text.split()
    length = int(rng.integers(words[0], words[1] + 1))
    start = int(rng.integers(0, max(0, len(parts) - length) + 1))
    return " ".join(parts[start : start + length])
