"""Which of torch's attentions trains short rows on the CPU.

torch's fused attention saves the memory of the attention probabilities, but its backward pass on the CPU is slow: for
16 rows of 60 tokens and 12 heads in bfloat16 it takes 12 ms where plain matrix products take 3 (two cores with
AVX512-BF16, torch 2.13).
"""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

MAX_PLAIN_TOKENS = 128
"""Length of rows up to which the attention probabilities, kept for the backward pass, take little memory."""


def attention_for(device: torch.device, longest: int) -> contextlib.AbstractContextManager[None]:
    """Inside, attention is computed by plain matrix products where rows of at most `longest` tokens on `device` are
    trained faster so; forward and backward passes give the same but for rounding."""
    plain = device.type == "cpu" and longest <= MAX_PLAIN_TOKENS
    return sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext()
