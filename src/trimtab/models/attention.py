"""Attention over a `SlotCache`: what a row may attend to, and three ways of computing it, registered with transformers.

A model builds its masks itself, by its own layers' kinds, and asks for each one by the name of the implementation that
it runs. Under the names below it gets masks whose rows stand at positions of their own: so windows, chunks and biases
by distance are those of the model's code, whatever its family. Elsewhere, as in training, they are transformers' own.

    >>> model.set_attn_implementation(CACHE_ATTENTION["sdpa"])                                     # doctest: +SKIP
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    AttentionMaskInterface,
    causal_mask_function,
    eager_mask,
    sdpa_mask,
)

GROUPED, EAGER, FLASH = "trimtab_grouped", "trimtab_eager", "trimtab_rows"
CACHE_ATTENTION = {"sdpa": GROUPED, "eager": EAGER, "flash_attention_2": FLASH}
"""Names of transformers' implementations, and of those here that take their place."""

PLAIN_COLUMNS, PLAIN_DIMENSION = 128, 128
"""Up to these, matrix products are faster on a CPU than torch's fused attention, by up to 2.4 times (192 rows of 40 new
tokens, 9 heads of 64, bfloat16 with AVX512-BF16, torch 2.13); beyond 256 columns they are slower for single tokens."""

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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

    With several new tokens a row, transformers' `sdpa` first repeats keys and values for every query head: for short
    chunks after long contexts that copying costs more than the attention itself. Here query heads that share a
    key-value head are read as further queries of it, which is the same arithmetic. Short rows on a CPU are read by
    plain matrix products.

    Args:
        query: [rows, heads, new, dimension]; key, value: [rows, key-value heads, all, dimension].
        attention_mask: [rows, 1, new, all], added to the scores. Without one it is `sdpa` itself.

    Returns:
        [rows, new, heads, dimension].
    """
    rows, heads, new, dimension = query.shape
    groups = heads // key.shape[1]
    biased = kwargs.get("position_bias") is not None
    if not biased and _in_products(key, attention_mask):
        return eager_attention(module, query, key, value, attention_mask, dropout, scaling)
    if attention_mask is None or attention_mask.shape[1] != 1 or groups == 1 or biased:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    folded = query.reshape(rows, key.shape[1], groups * new, dimension)
    mask = attention_mask.repeat(1, 1, groups, 1)
    attended = functional.scaled_dot_product_attention(folded, key, value, mask, dropout, scale=scaling)
    return attended.reshape(rows, heads, new, -1).transpose(1, 2).contiguous(), None


def _in_products(key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether rows are short, on a CPU, and have a mask that is added."""
    added = mask is not None and mask.is_floating_point()
    return added and key.device.type == "cpu" and key.shape[2] <= PLAIN_COLUMNS and key.shape[3] <= PLAIN_DIMENSION


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
    """The same, step by step, for models whose scores are capped at +-`softcap` (Gemma 2) or share their mass with a
    sink, one logit `s_aux` a head (gpt-oss)."""
    rows, heads, new, dimension = query.shape
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
    if attention_mask is None or attention_mask.dim() != 1:  # without a cache, as where the head is tried
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
    mask_function: MaskFunction = causal_mask_function,
    local_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    **asked: Any,
) -> torch.Tensor:
    """What is added to the scores of rows that each begin to read at a column of their own.

    Args:
        starts: the column of each row's first new token, [rows, 1, 1, 1].
        mask_function: of row, head, query and key positions, whether the one may attend to the other.
        local_size: a window or chunk; where no text is longer, causal is all there is to it.

    Returns:
        [rows, 1, new, all]: 0 where a token may attend, else the least number of `dtype`.
    """
    if asked.get("use_vmap"):
        raise ValueError("a mask that is no function of positions alone")
    device = starts.device
    queries = starts + torch.arange(q_length, device=device)[:, None]
    rows, keys = torch.arange(len(starts), device=device)[:, None, None, None], torch.arange(kv_length, device=device)
    wide = local_size is not None and kv_length <= local_size
    function = causal_mask_function if wide else mask_function
    allowed = function(rows, rows.new_zeros(()), queries, keys[None, None, None, :])
    mask = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def row_lengths(starts: torch.Tensor, q_length: int, **asked: Any) -> torch.Tensor:
    """How many columns of each row there are once it has read its new tokens, int32 [rows]."""
    return (starts.flatten() + q_length).to(torch.int32)


def _over_slots(own: Callable[..., torch.Tensor], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A mask of transformers' interface: `own` over a `SlotCache`, whose rows begin at unlike columns, else `plain`."""

    def mask(*, q_offset: Any = 0, **asked: Any) -> Any:
        over_slots = isinstance(q_offset, torch.Tensor) and q_offset.dim() == 4
        return own(q_offset, **asked) if over_slots else plain(q_offset=q_offset, **asked)

    return mask


AttentionInterface.register(GROUPED, grouped_attention)
AttentionInterface.register(EAGER, eager_attention)
AttentionInterface.register(FLASH, flash_attention)
AttentionMaskInterface.register(FLASH, _over_slots(row_lengths, eager_mask))
for _own, _plain, _mask in ((GROUPED, "sdpa", sdpa_mask), (EAGER, "eager", eager_mask)):
    AttentionMaskInterface.register(_own, _over_slots(row_mask, _mask))
    # for families that compute attention themselves, and so keep transformers' name (Falcon, Bloom, MPT)
    AttentionMaskInterface.register(_plain, _over_slots(row_mask, _mask))
