"""Models and a tokenizer for measuring where nothing can be downloaded: the shapes are real, the weights random.

>>> base = random_gpt2(GPT2_XL, torch.bfloat16, torch.device("cuda"))               # doctest: +SKIP
>>> len(byte_pairs())
50257
"""

import itertools
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

TOKENS = 50_257


@dataclass(frozen=True)
class Shape:
    """Layers, heads of each, and the width of a GPT-2."""

    layers: int
    heads: int
    width: int


GPT2, GPT2_XL = Shape(12, 12, 768), Shape(48, 25, 1600)


def random_gpt2(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> PreTrainedModel:
    """A GPT-2 of this shape with its usual initial weights."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=TOKENS, n_layer=shape.layers, n_head=shape.heads, n_embd=shape.width)
    with device:
        return GPT2LMHeadModel(config).to(dtype).eval()


def byte_pairs() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer of as many tokens as GPT-2's: all bytes, 50,000 pairs of them, and the end of text."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(itertools.product(symbols, symbols))[: TOKENS - len(symbols) - 1]
    tokens = [*symbols, *(left + right for left, right in pairs), "<|endoftext|>"]
    made = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, pairs))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=tokens[-1], bos_token=tokens[-1])
