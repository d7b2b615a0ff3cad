"""Tiny random models and tokenizers, made on the spot: the identities hold for any weights."""

from collections.abc import Collection, Sequence
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.models.cached_model import CachedModel
from trimtab.models.placement import input_device
from trimtab.models.vocabulary import Vocabulary

CORPUS = [
    "I really liked this movie, it was a wonderful film with a great cast.",
    "This was the worst film that I have ever seen. Terrible acting, awful plot!",
    "Here is a movie review from imdb: the story is good, the music is better – très bien, 好きです 😀.",
] * 4


@cache
def tokenizer(size: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `size` tokens; id 0 is the end, id 1 the start."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>", "<start>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="<end>", bos_token="<start>", pad_token="<end>")
    made.name_or_path = f"tiny-{size}"
    return made


def llama(seed: int, vocabulary: int = 320, layers: int = 2, dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    """A random Llama of a few thousand weights, spread so that its distributions are far from flat."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def gpt2(seed: int, vocabulary: int = 320, dtype: torch.dtype = torch.float64) -> GPT2LMHeadModel:
    """A random GPT-2 of a few thousand weights."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4,
        bos_token_id=1, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).to(dtype).eval()


def language_model(
    seed: int,
    *,
    size: int = 320,
    template: str = "{prompt}",
    ends: Collection[int] = (),
    dtype: torch.dtype = torch.float64,
) -> CachedModel:
    """A tiny Llama as a `LanguageModel`; `ends` are further end tokens, so that a random model ends now and then."""
    return CachedModel(llama(seed, size, dtype=dtype), Vocabulary(tokenizer(size), ends), template)


@torch.no_grad()
def full_log_probabilities(model: torch.nn.Module, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """log p of each response token from one pass over everything, without a cache: what all shortcuts must equal."""
    ids = torch.tensor([[*prompt, *response]], device=input_device(model))
    logs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0], dim=-1)
    return [float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(response)]
