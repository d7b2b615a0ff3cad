"""Folding the heads of a group into the queries is the arithmetic of transformers' own attention."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trimtab.models.attention import MAX_PRODUCT_COLUMNS, grouped_attention


class _Module(torch.nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (4, 1), (3, 3)])
@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("columns", [9, MAX_PRODUCT_COLUMNS + 1])
@pytest.mark.parametrize("masked", ["added", "allowed", "none"])
def test_it_is_what_repeated_keys_give(heads: int, shared: int, new: int, columns: int, masked: str) -> None:
    generator = torch.Generator().manual_seed(heads * new)
    query, key, value = (
        torch.randn(3, count, length, 8, generator=generator, dtype=torch.float64)
        for count, length in ((heads, new), (shared, columns), (shared, columns))
    )
    last = torch.arange(columns - new, columns)[:, None] - torch.tensor([0, 1, 2])[:, None, None]
    allowed = (torch.arange(columns) <= last)[:, None]
    added = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -1e300)
    mask = {"added": added, "allowed": allowed, "none": None}[masked]
    expected, _ = sdpa_attention_forward(_Module(heads // shared), query, key, value, mask, scaling=0.3)
    found, _ = grouped_attention(_Module(heads // shared), query, key, value, mask, scaling=0.3)
    assert found.shape == (3, new, heads, 8)
    assert torch.allclose(found, expected, atol=1e-12)
