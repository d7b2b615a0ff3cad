"""Which of torch's attentions trains short rows on the CPU.

torch's fused attention saves the memory of the attention probabilities, and its backward pass on the CPU pays for that:
for 16 rows of 60 tokens and 12 heads in bfloat16 it takes 12 ms where plain matrix products take 3 (two cores with
AVX512-BF16, torch 2.13). Knows nothing of models.

    >>> with attention_for(torch.device("cpu"), longest=60):                            # doctest: +SKIP
    ...     trainer.train()
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 128
"""Tokens of a row up to which its attention probabilities, kept for the backward pass, are a small part of what is."""


@contextmanager
def attention_for(device: torch.device, longest: int) -> Iterator[None]:
    """Within it torch's attention is by plain matrix products, where rows of at most `longest` tokens on `device` are
    trained faster so; what forward and backward passes compute is the same but for rounding."""
    if device.type != "cpu" or longest > SHORT:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
