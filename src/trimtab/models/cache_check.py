"""Compares the logits of two passes of one model over the same tokens: with a cache and without, or with an adapter
beside the weights and merged into them. How far apart are they, and does rounding explain it?

    >>> row = torch.tensor([[-101.0, -100.0, -99.0]])
    >>> round(distance(row, row), 3), round(distance(row.flip(-1), row), 3)
    (0.0, 2.0)
"""

import math

import torch
from transformers import PreTrainedModel

from trimtab.models.agreement import dtype_name
from trimtab.models.lm_head import probe_ids
from trimtab.models.load_options import quantization_of
from trimtab.models.placement import input_device

MAX_DISTANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}
"""The largest `distance` between two passes over the same tokens that rounding explains, by the type of the weights.

In 16 bits another batch or another order of reading rounds differently in every layer, and so do LLM.int8() and other
quantised weights. Measured, relative to the spread of a row's logits: bfloat16 1 to 3 % for small random models of all
families, GPT-2's shape and Gemma-3-270M; 3 % (AVX2) and 12 % (AVX512-BF16) for SmolLM2-135M; 11 % where logits lie
around -100 and spread by 0.8 alone. float16 0.1 to 0.5 %, and 2 %; float32 below 3e-5. A wrong mask, position or token
makes 20 to 150 %.
"""
MAX_DISTANCE_OTHER = 0.25  # for quantised weights and other types


@torch.inference_mode()
def first_logits(model: PreTrainedModel, tokens: int | None = None) -> torch.Tensor:
    """Logits of the first `tokens` of `probe_ids` (None: all), from one pass without a cache, [tokens, vocabulary]."""
    ids = torch.tensor([probe_ids(model)[:tokens]], device=input_device(model))
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def distance(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """How far apart the distributions of two sets of logits are, relative to their spread, both [rows, vocabulary].

    A constant added to all logits of a row changes no distribution, and not the distance. The distance is infinite
    where the two have different shapes, or infinite or NaN logits in different positions.
    """
    logits, expected = logits.double(), expected.to(logits.device, torch.float64)
    finite = expected.isfinite()
    if not torch.equal(finite, logits.isfinite()):
        return math.inf
    count = finite.sum(-1, keepdim=True).clamp(min=1)
    logits, expected = (
        values - values.sum(-1, keepdim=True) / count
        for values in (torch.where(finite, logits, 0.0), torch.where(finite, expected, 0.0))
    )
    difference, spread = ((logits - expected) * finite).norm(), (expected * finite).norm()
    return float(difference / spread) if difference > 0 else 0.0


def allowed_distance(model: PreTrainedModel) -> tuple[float, str]:
    """The largest `distance` between two passes that rounding explains, and the name of the weights' type for messages.

    Where weights have several types, the coarsest decides.
    """
    quantization = quantization_of(model)
    if quantization is not None:
        return MAX_DISTANCE_OTHER, quantization
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    coarsest = max(types, key=lambda dtype: torch.finfo(dtype).eps)  # a head or norms may be wider than the layers
    return MAX_DISTANCE.get(coarsest, MAX_DISTANCE_OTHER), dtype_name(coarsest)


def alike(logits: torch.Tensor, expected: torch.Tensor, model: PreTrainedModel) -> bool:
    """Whether rounding explains the distance between the logits of two passes of a model, both [rows, vocabulary]."""
    return distance(logits, expected) <= allowed_distance(model)[0]
