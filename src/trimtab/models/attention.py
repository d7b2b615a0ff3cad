"""Attention over a `SlotCache`, registered with transformers: masks for rows of unlike lengths, and three kernels.

A model builds its masks itself, by its own layers' kinds, and asks for each one by the name of the implementation that
it runs. Under the names registered here it gets masks whose rows begin at columns of their own. So windows, chunks and
biases by distance are those of the model's code, whatever its family. Without a `SlotCache`, as in training, the masks
are transformers' own. transformers passes further arguments for other kernels and masks: hence each `**kwargs` here.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, eager_mask, sdpa_mask

GROUPED, EAGER, FLASH = "trimtab_grouped", "trimtab_eager", "trimtab_rows"
CACHE_ATTENTION = {"sdpa": GROUPED, "eager": EAGER, "flash_attention_2": FLASH}
"""Names of transformers' implementations, and of those that take their place over a `SlotCache`."""

MAX_PRODUCT_COLUMNS, MAX_PRODUCT_DIMENSION = 128, 128
"""Up to these, matrix products are faster on a CPU than torch's fused attention, by up to 2.4 times (192 rows of 40 new
tokens, 9 heads of 64, bfloat16 with AVX512-BF16, torch 2.13); beyond 256 columns they are slower for single tokens."""


@cache
def _has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 in tiles. Fused attention in bfloat16 is then the faster one at any length:
    3 times for the next token of one row, 2 of 16 rows, 1.2 of 256 (9 heads of 64, 48 columns, torch 2.13)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


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
    """Attention without copies of keys and values for the query heads that share them.

    With several new tokens per row, transformers' `sdpa` first repeats keys and values for every query head: for short
    chunks after long contexts that costs more than the attention itself. Here query heads that share a key-value head
    become further queries of it, which is the same arithmetic. Short rows on a CPU are computed by plain products.

    Args:
        query: [rows, heads, new, dimension]; key, value: [rows, key-value heads, all, dimension].
        attention_mask: [rows, 1, new, all], added to the scores. Without one this is `sdpa` itself.

    Returns:
        [rows, new, heads, dimension].
    """
    rows, heads, new, dimension = query.shape
    groups = heads // key.shape[1]
    biased = kwargs.get("position_bias") is not None
    short = key.device.type == "cpu" and key.shape[2] <= MAX_PRODUCT_COLUMNS and key.shape[3] <= MAX_PRODUCT_DIMENSION
    short &= not (key.dtype == torch.bfloat16 and _has_amx())
    if short and not biased and attention_mask is not None and attention_mask.is_floating_point():
        return eager_attention(module, query, key, value, attention_mask, dropout, scaling)
    if attention_mask is None or attention_mask.shape[1] != 1 or groups == 1 or biased:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    folded = query.reshape(rows, key.shape[1], groups * new, dimension)
    mask = attention_mask if new == 1 else attention_mask.repeat(1, 1, groups, 1)
    attended = functional.scaled_dot_product_attention(folded, key, value, mask, dropout, scale=scaling)
    return attended.reshape(rows, heads, new, -1).transpose(1, 2).contiguous(), None


def eager_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`grouped_attention` in plain products, for models whose scores are capped at +-`softcap` (Gemma 2) or share their
    mass with a sink, one logit `s_aux` per head (gpt-oss)."""
    rows, heads, new, dimension = query.shape
    if key.device.type == "cpu" and key.element_size() == 2:
        key = key.contiguous()  # oneDNN would copy a cache's columns in use by itself, transposed: twice as slow
    folded = (query * (dimension**-0.5 if scaling is None else scaling)).reshape(rows, key.shape[1], -1, dimension)
    scores = (folded @ key.transpose(2, 3)).view(rows, heads, new, -1)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    if s_aux is not None:
        scores = torch.cat([scores, s_aux.view(1, heads, 1, 1).expand(rows, heads, new, 1).to(scores.dtype)], -1)
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    weights = scores.softmax(-1, dtype=wide)[..., : key.shape[2]].to(query.dtype)
    weights = functional.dropout(weights, dropout, module.training)
    attended = weights.view(rows, key.shape[1], -1, key.shape[2]) @ value
    return attended.view(rows, heads, new, -1).transpose(1, 2).contiguous(), None


def flash_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """FlashAttention 2 over rows of unlike lengths: over a `SlotCache`, `attention_mask` is the length of each row.

    Dao 2023, arXiv 2307.08691; the kernel reads a cache in place and aligns its causal mask with each row's end.
    """
    if attention_mask is None or attention_mask.dim() != 1:  # without a cache, as in `find_head`
        return eager_attention(module, query, key, value, attention_mask, dropout, scaling, softcap, **kwargs)
    if kwargs.get("s_aux") is not None:
        raise ValueError("flash_attention_2 knows no attention sinks")
    from flash_attn import flash_attn_with_kvcache

    attended = flash_attn_with_kvcache(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        cache_seqlens=attention_mask,
        softmax_scale=scaling,
        causal=True,
        window_size=(-1, -1) if sliding_window is None else (sliding_window - 1, 0),
        softcap=softcap or 0.0,
    )
    return attended, None


def row_mask(
    starts: torch.Tensor,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., torch.Tensor] = causal_mask_function,
    local_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    **kwargs: Any,
) -> torch.Tensor:
    """The mask that is added to the scores of rows whose new tokens begin at different columns.

    Args:
        starts: the column of each row's first new token, [rows, 1, 1, 1].
        mask_function: of row, head, query and key positions: whether the query may attend to the key.
        local_size: a window or chunk; where no text is longer, the causal mask is enough.

    Returns:
        [rows, 1, new, all]: 0 where a token may attend, else the least number of `dtype`.
    """
    if kwargs.get("use_vmap"):
        raise ValueError("a mask that is no function of positions alone")
    device = starts.device
    queries = starts + torch.arange(q_length, device=device)[:, None]
    rows, keys = torch.arange(len(starts), device=device)[:, None, None, None], torch.arange(kv_length, device=device)
    wide = local_size is not None and kv_length <= local_size
    function = causal_mask_function if wide else mask_function
    allowed = function(rows, rows.new_zeros(()), queries, keys[None, None, None, :])
    mask = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def row_lengths(starts: torch.Tensor, q_length: int, **kwargs: Any) -> torch.Tensor:
    """The length of each row once it has read its new tokens, int32 [rows]."""
    return (starts.flatten() + q_length).to(torch.int32)


def _by_cache(over_slots: Callable[..., torch.Tensor], otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """A mask of transformers' interface: `over_slots` over a `SlotCache`, whose offset is a column per row."""

    def mask(*, q_offset: Any = 0, **kwargs: Any) -> Any:
        if isinstance(q_offset, torch.Tensor) and q_offset.dim() == 4:
            return over_slots(q_offset, **kwargs)
        return otherwise(q_offset=q_offset, **kwargs)

    return mask


AttentionInterface.register(GROUPED, grouped_attention)
AttentionInterface.register(EAGER, eager_attention)
AttentionInterface.register(FLASH, flash_attention)
AttentionMaskInterface.register(FLASH, _by_cache(row_lengths, eager_mask))
# under transformers' names too, which families that compute attention themselves keep (Falcon, Bloom, MPT)
for _names, _mask in (((GROUPED, "sdpa"), sdpa_mask), ((EAGER, "eager"), eager_mask)):
    for _name in _names:
        AttentionMaskInterface.register(_name, _by_cache(row_mask, _mask))
