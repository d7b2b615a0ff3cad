"""A converted GGUF model is the model of the file: same logits, same tokens, every end of text known."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import tiny
from trimtab.assets.convert import convert_gguf
from trimtab.assets.download import sha256_of
from trimtab.assets.resolve import Assets
from trimtab.errors import AssetError

ENDS = ["<|im_end|>", "<|endoftext|>"]


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's order of the rotary rows of a query or key projection: halves are interleaved."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """The model and a byte-level BPE as llama.cpp writes them, by the format's own writer."""
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = json.loads(tiny.tokenizer(config.vocab_size - len(ENDS)).backend_tokenizer.to_str())["model"]
    tokens = [*sorted(vocabulary["vocab"], key=vocabulary["vocab"].get), *ENDS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "model.layers": "blk",
    }
    for name, weight in weights.items():
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = interleave(weight, heads)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, weight.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, Path]:
    """A random model whose weights bfloat16 holds exactly, and the folder that its GGUF file was converted to."""
    folder = tmp_path_factory.mktemp("gguf")
    model = tiny.llama(seed=3, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    write_gguf(folder / "tiny.gguf", model)
    (folder / "out").mkdir()
    convert_gguf(folder / "tiny.gguf", folder / "out")
    return model, folder / "out"


def test_logits_are_those_of_the_file(converted: tuple[LlamaForCausalLM, Path]) -> None:
    model, folder = converted
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[1, 50, 60, 70, 80, 90]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_folder_is_an_ordinary_safetensors_model(converted: tuple[LlamaForCausalLM, Path]) -> None:
    config = json.loads((converted[1] / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert (converted[1] / "model.safetensors").is_file()


def test_all_ends_of_text_are_known(converted: tuple[LlamaForCausalLM, Path]) -> None:
    """GGUF names one eos token; a chat model ends turns with it and texts with another."""
    generation = json.loads((converted[1] / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(converted[1])
    assert tokenizer.convert_ids_to_tokens(generation["eos_token_id"]) == ENDS


@pytest.mark.parametrize("text", ["a film", " leading", "two  spaces\n\nand\ttabs ", "très 😀👩‍👧 好き", ""])
def test_text_survives_the_tokenizer(converted: tuple[LlamaForCausalLM, Path], text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted[1])
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_what_is_no_gguf_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model at all, but long enough to be read as a header" * 10)
    with pytest.raises(AssetError, match=r"bad\.gguf") as caught:
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_whole_weights_are_not_rounded(tmp_path: Path, scale: float) -> None:
    """Fault: F32 weights became bfloat16 in the conversion, and `dtype: float32` widened what was rounded."""
    model = tiny.llama(seed=3, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight *= scale
    write_gguf(tmp_path / "tiny.gguf", model)
    (tmp_path / "out").mkdir()
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_without_a_terminal_no_bar_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny.llama(seed=3, dtype=torch.float32))
    capfd.readouterr()
    Assets(cache=tmp_path / "cache").model(str(tmp_path / "tiny.gguf"))
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_an_earlier_version_rounded_is_not_taken(tmp_path: Path) -> None:
    model = tiny.llama(seed=3, dtype=torch.float32)
    write_gguf(tmp_path / "tiny.gguf", model)
    stale = tmp_path / "cache" / "converted" / sha256_of(tmp_path / "tiny.gguf")[:16]
    stale.mkdir(parents=True)
    found = Assets(cache=tmp_path / "cache").model(str(tmp_path / "tiny.gguf"))
    assert found != stale and (found / "model.safetensors").is_file()
