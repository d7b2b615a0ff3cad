"""Four faults, planted one at a time: each makes a check of `identities` fail. A test that cannot fail guards nothing.

Chosen and rejected swapped is planted in test_training_preference.py, beside the training that it would spoil.
"""

from dataclasses import replace

import pytest
import torch

from identities import (
    check_beam_search_equals_reference,
    check_end_counts_only_where_sampled,
    check_values_are_rescored_and_in_order,
)
from trimtab.models.kv_cache import SlotCache
from trimtab.search import chunk_beam
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer

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
            replace(each, token_ids=each.token_ids[:-1]) if each.finish == "eos" else each for each in continuations
        ]

    check_end_counts_only_where_sampled(BEST_OF)
    monkeypatch.setattr(LanguageModelProposer, "propose", dropping)
    with pytest.raises(AssertionError):
        check_end_counts_only_where_sampled(BEST_OF)


def test_unsorted_values_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    check_values_are_rescored_and_in_order(BEST_OF, same_vocabulary=True)
    monkeypatch.setattr(chunk_beam, "_ranked", list)
    with pytest.raises(AssertionError):
        check_values_are_rescored_and_in_order(BEST_OF, same_vocabulary=True)
