"""Four faults, planted one at a time: each makes a check of `identities` fail. A test that cannot fail guards nothing.

Chosen and rejected swapped is planted in test_training_preference.py, beside the training that it would spoil.
"""

from collections.abc import Sequence

import pytest
import torch

from identities import (
    check_beam_search_equals_reference,
    check_end_counts_only_where_sampled,
    check_values_are_rescored_and_in_order,
)
from trimtab.models.kv_cache import SlotCache
from trimtab.search import chunk_beam
from trimtab.search.chunk_beam import Hypothesis, Search
from trimtab.search.proposer import Continuation, LanguageModelProposer

CBS = Search(width=3, successors=2, chunk=4, max_new_tokens=14)
BEST_OF = Search(successors=6, max_new_tokens=12, keep=6)


def test_a_cache_that_is_not_reordered_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = SlotCache.select

    def unordered(self: SlotCache, rows: torch.Tensor, used: int, capacity: int) -> SlotCache:
        return sound(self, torch.arange(len(rows)) % int(rows.max() + 1) if len(rows) else rows, used, capacity)

    check_beam_search_equals_reference(CBS)
    monkeypatch.setattr(SlotCache, "select", unordered)
    with pytest.raises(AssertionError):
        check_beam_search_equals_reference(CBS)


def test_a_dropped_end_token_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = LanguageModelProposer.propose

    def dropping(self: LanguageModelProposer, *arguments: object) -> object:
        state, continuations = sound(self, *arguments)  # type: ignore[arg-type]
        return state, [
            Continuation(each.token_ids[:-1] if each.finish == "eos" else each.token_ids, each.finish, each.row)
            for each in continuations
        ]

    check_end_counts_only_where_sampled(BEST_OF)
    monkeypatch.setattr(LanguageModelProposer, "propose", dropping)
    with pytest.raises(AssertionError):
        check_end_counts_only_where_sampled(BEST_OF)


def test_unsorted_values_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsorted(beams: Sequence[list[Hypothesis]], candidates: list[Hypothesis], *, ranked: bool) -> object:
        return sound(list(beams), candidates, ranked=False)

    sound = chunk_beam._compete
    check_values_are_rescored_and_in_order(BEST_OF, same_vocabulary=True)
    monkeypatch.setattr(chunk_beam, "_compete", unsorted)
    with pytest.raises(AssertionError):
        check_values_are_rescored_and_in_order(BEST_OF, same_vocabulary=True)
