"""Folding the heads of a group into the queries is the arithmetic of transformers' own attention."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trimtab.models import attention
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


@pytest.mark.parametrize(
    ("dtype", "amx", "products"),
    [(torch.bfloat16, True, False), (torch.bfloat16, False, True), (torch.float32, True, True)],
)
def test_short_rows_are_read_by_what_is_faster_on_the_processor(
    dtype: torch.dtype, amx: bool, products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def noted(*given: object) -> object:
        calls.append(given)
        return plain(*given)

    plain = attention.eager_attention
    monkeypatch.setattr(attention, "eager_attention", noted)
    monkeypatch.setattr(attention, "_has_amx", lambda: amx)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 6, 8, generator=generator).to(dtype) for heads in (4, 2, 2))
    mask = torch.zeros(2, 1, 6, 6, dtype=dtype).masked_fill_(~torch.ones(6, 6).tril().bool(), torch.finfo(dtype).min)
    for new in (6, 1):  # one new token's mask is the same for all heads of a group, and is not repeated
        given = query[:, :, -new:], key, value, mask[:, :, -new:]
        found, _ = grouped_attention(_Module(2), *given, scaling=0.3)
        exact, _ = plain(_Module(2), *(part.double() for part in given), scaling=0.3)
        assert torch.allclose(found.double(), exact, atol=1e-6 if dtype == torch.float32 else 0.02)
    assert bool(calls) == products
