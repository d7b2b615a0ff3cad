"""Architectures that differ from Llama: what they score is one whole pass's, alone and over a shared trunk; those that
cannot be decoded are refused in one line."""

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tiny import full_log_probabilities, tokenizer
from trimtab.errors import ModelError
from trimtab.models.transformers_model import TransformersModel
from trimtab.models.trunk import share_trunk
from trimtab.models.vocabulary import Vocabulary

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.4, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
SHARED = {**SMALL, "num_key_value_heads": 2}


def made(kind: Callable[..., PreTrainedModel], config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = kind(config).double().eval()
    head = model.get_output_embeddings()
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    return model


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "a head with a bias": lambda: made(PhiForCausalLM, PhiConfig(**SHARED)),
    "a tied head": lambda: made(LlamaForCausalLM, LlamaConfig(**SHARED, tie_word_embeddings=True)),
    "one key-value head": lambda: made(Qwen2ForCausalLM, Qwen2Config(**SMALL, num_key_value_heads=1)),
    "parallel layers": lambda: made(GPTNeoXForCausalLM, GPTNeoXConfig(**SMALL, rotary_pct=0.5)),
    "a body within the body": lambda: made(OPTForCausalLM, OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=16)),
    "windows in some layers": lambda: made(
        Gemma3ForCausalLM, Gemma3TextConfig(**SHARED, head_dim=8, sliding_window=64, query_pre_attn_scalar=8)
    ),
    "windows in all layers": lambda: made(MistralForCausalLM, MistralConfig(**SHARED, sliding_window=64)),
}
PROMPTS = [[1, 40, 41, 42, 43], [1], [1, 50, 51]]
RESPONSES = [[60, 61, 62], [70], []]


def as_language_model(model: PreTrainedModel) -> TransformersModel:
    return TransformersModel(model, Vocabulary(tokenizer()))


def scored(model: TransformersModel) -> tuple[list[list[float]], torch.Tensor]:
    """Log-probabilities of the responses, forked once more than there are prompts; the logits that follow them."""
    state = model.start_ids(PROMPTS, room=8)
    parents = [0, 1, 2, 0]
    lengths = [len(PROMPTS[parent]) for parent in parents]
    children, logs = model.score(state, parents, lengths, [*RESPONSES, [80, 81]])
    return logs, model.next_logits(children).clone()


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_one_whole_pass(name: str) -> None:
    model = MODELS[name]()
    logs, logits = scored(as_language_model(model))
    for prompt, response, found in zip([*PROMPTS, PROMPTS[0]], [*RESPONSES, [80, 81]], logs, strict=True):
        assert found == pytest.approx(full_log_probabilities(model, prompt, response), abs=1e-9)
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([[*PROMPTS[0], *RESPONSES[0]]]), use_cache=False).logits[0, -1]
    assert torch.allclose(logits[0], whole, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_a_shared_trunk_changes_no_bit(name: str) -> None:
    untuned = MODELS[name]()
    tuned = copy.deepcopy(untuned)
    with torch.no_grad():
        for weight in [weight for part, weight in tuned.named_parameters() if "layers.2." in part]:
            weight.add_(0.1)
    pair = as_language_model(untuned), as_language_model(tuned)
    alone = [scored(model) for model in pair]
    first, second = share_trunk(*pair)
    start = [model.start_ids(PROMPTS, room=8) for model in (first, second)]
    parents = [0, 1, 2, 0]
    lengths = [len(PROMPTS[parent]) for parent in parents]
    both = [
        model.score(state, parents, lengths, [*RESPONSES, [80, 81]])
        for model, state in zip((first, second), start, strict=True)
    ]
    logits = [model.next_logits(children).clone() for model, (children, _) in zip((first, second), both, strict=True)]
    for (_, logs), after, (expected, expected_after) in zip(both, logits, alone, strict=True):
        assert logs == expected and torch.equal(after, expected_after)


def test_a_text_ends_before_a_window_would_slide() -> None:
    model = as_language_model(MODELS["windows in all layers"]())
    model.start_ids([[1] * 60], room=4)
    with pytest.raises(ModelError, match="context of 64"):
        model.start_ids([[1] * 60], room=5)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    with pytest.raises(ModelError, match="changes its logits after the output embedding"):
        as_language_model(made(GraniteForCausalLM, GraniteConfig(**SHARED, logits_scaling=8.0)))


def test_a_model_that_counts_no_positions_is_refused() -> None:
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.4)
    with pytest.raises(ModelError, match="a bloom model counts no positions"):
        as_language_model(made(BloomForCausalLM, config))
