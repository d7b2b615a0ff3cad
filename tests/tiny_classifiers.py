"""Tiny random sequence classifiers of many families, and what transformers gives for one text alone."""

import copy

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from tiny import tokenizer
from trimtab.rewards.classifier import classifier_reward
from trimtab.rewards.model_reward import ModelReward
from trimtab.rewards.reward import judged_texts
from trimtab.rewards.sequence_logits import reading

ROWS = 320
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
GPT2 = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
DECODERS = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 8},
    "qwen2": GROUPED,
    "gemma": GROUPED,
    "gemma2": {**GROUPED, "sliding_window": 8},
    "gpt2": GPT2,
    "opt": {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "gpt_neox": SMALL,
    "jamba": {**GROUPED, "num_hidden_layers": 3, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
              "expert_layer_period": 2, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
}  # fmt: skip
CONVOLVED = {"embedding_size": 16, "conv_kernel_size": 3, "num_groups": 1, "head_ratio": 1}
ENCODERS = {
    "bert": SMALL,
    "roberta": SMALL,
    "mpnet": SMALL,
    "electra": {**SMALL, "embedding_size": 16},
    "deberta-v2": {**SMALL, "pos_att_type": ["c2p", "p2c"], "relative_attention": True, "position_buckets": 8},
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    "modernbert": {**SMALL, "local_attention": 8},
    "convbert": {**SMALL, **CONVOLVED},  # a convolution reads padding
    "fnet": {**SMALL, "tpu_short_seq_length": 64},  # a Fourier transform of all positions, without a mask
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},  # its head stands at the last position
}
BOTH = {
    "bart": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
}  # fmt: skip


def classifier(family: str, labels: int = 2, **more: object) -> PreTrainedModel:
    """A tiny random classifier of a family."""
    sizes = {**DECODERS, **ENCODERS, **BOTH}[family]
    named = {"vocab_size": ROWS, "num_labels": labels, "max_position_embeddings": 64, "initializer_range": 0.3}
    named |= {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
    if family == "bart":
        named |= {"decoder_start_token_id": 0}
    if family == "t5":
        named |= {"decoder_start_token_id": 0, "initializer_factor": 0.5}
    if family == "xlnet":
        del named["max_position_embeddings"]  # it has no limit
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**named, **sizes, **more})
    return AutoModelForSequenceClassification.from_config(config).eval()


def words(ends: bool = False, **more: object) -> PreTrainedTokenizerFast:
    """The tokenizer, with other settings; `ends`: it puts an end token behind each text."""
    made = copy.deepcopy(tokenizer())
    for name, value in more.items():
        setattr(made, name, value)
    if ends:
        made.backend_tokenizer.post_processor = TemplateProcessing("$A <end>", None, [("<end>", 0)])
    return made


@torch.inference_mode()
def alone(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """What transformers gives for one text, [labels]."""
    return model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]


def scores(model: PreTrainedModel, tokens: PreTrainedTokenizerFast, texts: list[str], batch: int) -> list[float]:
    """Of a classifier's `positive_logit`, or of a scalar head."""
    if model.config.num_labels > 1:
        judge = classifier_reward(
            model, tokens, definition="positive_logit", positive_label=1, max_length=48, batch_size=batch
        )
        return judge.score(texts, [""] * len(texts))
    limit, logits = reading(model, tokens, 48)
    scalar = ModelReward(
        lambda rows: logits(rows)[:, 0], lambda *texts: tokens(judged_texts(*texts))["input_ids"], limit,
        parameters=1, batch_size=batch,
    )  # fmt: skip
    return scalar.score(texts, [""] * len(texts))
