"""A tiny random model of each family: how far unlike their code is, unlike their masks, caches and heads are."""

import copy
from collections.abc import Callable

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

WINDOW = 6  # shorter than the texts of the tests
ENDS = {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.4, **ENDS,
}  # fmt: skip
SHARED = {**SMALL, "num_key_value_heads": 2}
GEMMA = {**SHARED, "head_dim": 8}
OLD = {"vocab_size": 320, "hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.4, **ENDS}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def _of(
    kind: Callable[..., PreTrainedModel], config: object, dtype: torch.dtype = torch.float64
) -> Callable[[int], PreTrainedModel]:
    def make(seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        model = kind(copy.deepcopy(config))  # an attention that is set is noted in it
        model.set_experts_implementation("eager")  # others have no float64
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "bias" in name or "sinks" in name:
                    weight.normal_(std=0.3)  # which are zero at first, and would hide what is left out
        return model.to(dtype).eval()

    return make


_VISION = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip

CACHED: dict[str, Callable[[int], PreTrainedModel]] = {
    "gpt2": _of(GPT2LMHeadModel, GPT2Config(vocab_size=320, n_positions=256, n_embd=32, n_layer=3, n_head=4,
                                           initializer_range=0.4, **ENDS)),
    "llama": _of(LlamaForCausalLM, LlamaConfig(**SHARED, tie_word_embeddings=True)),
    "qwen2": _of(Qwen2ForCausalLM, Qwen2Config(**SMALL, num_key_value_heads=1)),
    "qwen2 with windows": _of(Qwen2ForCausalLM, Qwen2Config(
        **SHARED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)),
    "qwen3": _of(Qwen3ForCausalLM, Qwen3Config(**SHARED, head_dim=8)),
    "gemma": _of(GemmaForCausalLM, GemmaConfig(**GEMMA)),
    "gemma2": _of(Gemma2ForCausalLM, Gemma2Config(
        **GEMMA, sliding_window=WINDOW, query_pre_attn_scalar=8, layer_types=MIXED, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0)),
    "gemma3": _of(Gemma3ForCausalLM, Gemma3TextConfig(
        **GEMMA, sliding_window=WINDOW, query_pre_attn_scalar=8, layer_types=MIXED)),
    "gemma3 with vision": _of(Gemma3ForConditionalGeneration, Gemma3Config(
        text_config=Gemma3TextConfig(**GEMMA, sliding_window=WINDOW, query_pre_attn_scalar=8, layer_types=MIXED),
        vision_config={"model_type": "siglip_vision_model", **_VISION}, mm_tokens_per_image=4, **ENDS)),
    "mistral": _of(MistralForCausalLM, MistralConfig(**SHARED, sliding_window=WINDOW)),
    "mixtral": _of(MixtralForCausalLM, MixtralConfig(**SHARED, num_local_experts=3)),
    "phi": _of(PhiForCausalLM, PhiConfig(**SHARED)),
    "phi3": _of(Phi3ForCausalLM, Phi3Config(**SHARED, sliding_window=WINDOW)),
    "stablelm": _of(StableLmForCausalLM, StableLmConfig(**SHARED)),
    "opt": _of(OPTForCausalLM, OPTConfig(
        vocab_size=320, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=256, word_embed_proj_dim=16, init_std=0.4, **ENDS)),
    "gpt-neox": _of(GPTNeoXForCausalLM, GPTNeoXConfig(**SMALL, rotary_pct=0.5)),
    "falcon": _of(FalconForCausalLM, FalconConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, initializer_range=0.4, **ENDS)),
    "falcon with ALiBi": _of(FalconForCausalLM, FalconConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, initializer_range=0.4, alibi=True,
        multi_query=False, parallel_attn=False, bias=True, **ENDS)),
    "bloom": _of(BloomForCausalLM, BloomConfig(**OLD)),
    "mpt": _of(MptForCausalLM, MptConfig(
        vocab_size=320, d_model=32, n_heads=4, n_layers=3, max_seq_len=256, initializer_range=0.4, **ENDS)),
    "cohere": _of(CohereForCausalLM, CohereConfig(**SHARED, logit_scale=0.3)),
    "cohere2": _of(Cohere2ForCausalLM, Cohere2Config(
        **SHARED, logit_scale=0.3, sliding_window=WINDOW, layer_types=MIXED)),
    "granite": _of(GraniteForCausalLM, GraniteConfig(**SHARED, logits_scaling=3.0)),
    "gpt-oss": _of(GptOssForCausalLM, GptOssConfig(
        **SHARED, head_dim=8, sliding_window=WINDOW, layer_types=MIXED, num_local_experts=2, num_experts_per_tok=1)),
}  # fmt: skip
"""Families whose layers remember keys and values."""
REREAD: dict[str, Callable[[int], PreTrainedModel]] = {
    "mamba": _of(
        MambaForCausalLM,
        MambaConfig(vocab_size=320, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.4, **ENDS),
        torch.float32,  # its own code mixes it with others
    ),
    "rwkv": _of(RwkvForCausalLM, RwkvConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=2, context_length=256, **ENDS)),
    "jamba": _of(JambaForCausalLM, JambaConfig(
        **SHARED, num_experts=2, mamba_d_state=4, mamba_d_conv=2, mamba_dt_rank=4, attn_layer_period=2,
        attn_layer_offset=1)),
    "gpt-neo": _of(GPTNeoForCausalLM, GPTNeoConfig(
        vocab_size=320, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        window_size=WINDOW, max_position_embeddings=256, initializer_range=0.4, **ENDS)),
}  # fmt: skip
"""Families that remember something else, or mask in a way of their own."""

ROUNDED = {"mamba": 1e-4, "bloom": 1e-5, "mpt": 1e-5, "gpt-neo": 1e-5}
"""Families that compute in float32 whatever their weights are, and so depend a little on how a batch is padded."""
