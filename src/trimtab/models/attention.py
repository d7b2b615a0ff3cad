"""Attention whose query heads that share a key-value head are read as further queries of it.

With several new tokens a row, transformers' `sdpa` first repeats keys and values for every query head: for short chunks
after long contexts that copying costs more than the attention itself. Folding the heads of a group into the query
dimension is the same arithmetic without it. Registered under `GROUPED` with transformers.

    >>> model.set_attn_implementation(GROUPED)                                          # doctest: +SKIP
"""

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

GROUPED = "trimtab_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' interface asks for it.

    Args:
        query: [rows, heads, new, dimension]; key, value: [rows, key-value heads, all, dimension].
        attention_mask: [rows, 1, new, all], added to the scores. Without one it is `sdpa` itself.

    Returns:
        [rows, new, heads, dimension].
    """
    rows, heads, new, dimension = query.shape
    groups = heads // key.shape[1]
    if attention_mask is None or attention_mask.shape[1] != 1 or groups == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    folded = query.reshape(rows, key.shape[1], groups * new, dimension)
    mask = attention_mask.repeat(1, 1, groups, 1)
    attended = functional.scaled_dot_product_attention(folded, key, value, mask, dropout, scale=scaling)
    return attended.reshape(rows, heads, new, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
