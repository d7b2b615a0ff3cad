"""Snippets: length and place of the windows."""

import numpy as np

from trimtab.rewards.snippets import cut_snippet


def test_every_window_of_the_wanted_lengths_is_drawn():
    rng = np.random.default_rng(0)
    drawn = {cut_snippet("a b\n c  d", (2, 3), rng) for _ in range(200)}
    assert drawn == {"a b", "b c", "c d", "a b c", "b c d"}


def test_short_text_is_returned_whole():
    assert cut_snippet("a b", (5, 9), np.random.default_rng(0)) == "a b"
