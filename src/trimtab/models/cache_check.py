"""Two readings of the same tokens by one model, through a cache and without, or with an adapter beside and merged:
how far their logits are apart, and whether rounding explains it.

    >>> first_logits(model).shape                                                       # doctest: +SKIP
    torch.Size([8, 49152])
    >>> row = torch.tensor([[-101.0, -100.0, -99.0]])
    >>> round(readings_apart(row, row), 3), round(readings_apart(row.flip(-1), row), 3)
    (0.0, 2.0)
"""

import math

import torch
from transformers import PreTrainedModel

from trimtab.models.agreement import dtype_name
from trimtab.models.lm_head import probe_ids
from trimtab.models.load_options import quantization_of
from trimtab.models.placement import input_device

APART, APART_OTHERWISE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.1}, 0.25
"""How far logits of two readings may be apart, by the type that the model computes in.

In 16 bits another batch and another order of reading round otherwise in every layer, and so do LLM.int8() and other
quantised weights. Measured, relative to the spread of a row's logits: bfloat16 1 to 3 % for small random models of all
families, GPT-2's shape and Gemma-3-270M; 3 % (AVX2) and 12 % (AVX512-BF16) for SmolLM2-135M; 11 % where logits lie
about -100 and spread by 0.8 alone. float16 0.1 to 0.5 %, and 2 %; float32 below 3e-5. A wrong mask, position or token
makes 20 to 150 %.
"""


@torch.inference_mode()
def first_logits(model: PreTrainedModel, tokens: int | None = None) -> torch.Tensor:
    """Logits of the first `tokens` of `probe_ids`, or of all, in one pass without a cache, [tokens, vocabulary]."""
    ids = torch.tensor([probe_ids(model)[:tokens]], device=input_device(model))
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def readings_apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far the distributions of two sets of logits are apart, relative to their spread, [rows, vocabulary] both.

    A constant that is added to all logits of a row changes no distribution, and no part of this. Infinite where the two
    have unlike shapes, or numbers that are not finite in unlike places.
    """
    found, expected = found.double(), expected.to(found.device, torch.float64)
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return math.inf
    count = finite.sum(-1, keepdim=True).clamp(min=1)
    found, expected = (
        logits - logits.sum(-1, keepdim=True) / count
        for logits in (torch.where(finite, found, 0.0), torch.where(finite, expected, 0.0))
    )
    differ, spread = ((found - expected) * finite).norm(), (expected * finite).norm()
    return float(differ / spread) if differ > 0 else 0.0


def allowed_apart(model: PreTrainedModel) -> tuple[float, str]:
    """How far two readings of a model may be apart, and the name of the weights' type that this follows from."""
    bits = quantization_of(model)
    if bits is not None:
        return APART_OTHERWISE, bits
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    coarsest = max(types, key=lambda dtype: torch.finfo(dtype).eps)  # a head or norms may be wider than the layers
    return APART.get(coarsest, APART_OTHERWISE), dtype_name(coarsest)


def alike(found: torch.Tensor, expected: torch.Tensor, model: PreTrainedModel) -> bool:
    """Whether rounding explains how far two readings of a model are apart, [rows, vocabulary] both."""
    return readings_apart(found, expected) <= allowed_apart(model)[0]
