"""Models that are large for their machine: what waits on a disk, what is spread, what is asked for in vain."""

import sys
import types
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from tiny import full_log_probabilities, gpt2, llama, tokenizer
from tiny_hub import save_causal_lm
from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.config.training import TuneConfig
from trimtab.errors import ModelError
from trimtab.models import load, load_options
from trimtab.models.attention import EAGER, FLASH, GROUPED
from trimtab.models.cached_model import CachedModel
from trimtab.models.families import language_model_of
from trimtab.models.load import load_causal_lm
from trimtab.models.roles import Weights, load_language_model
from trimtab.models.vocabulary import Vocabulary
from trimtab.training.job import TrainingJob
from trimtab.training.preference import tune
from zoo import CACHED

PROMPTS, RESPONSES = [[1, 40, 41, 42, 43, 44, 45, 46, 47, 48], [1]], [[60, 61, 62], [70, 71]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_causal_lm(tmp_path / "llama", llama(1, layers=3))


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    return Assets(cache=tmp_path / "cache")


@pytest.mark.parametrize("place", ["disk", "cpu", "auto"])
def test_layers_that_wait_on_a_disk_decode_as_ever(folder: Path, assets: Assets, place: str) -> None:
    config = ModelConfig.model_validate({"name": str(folder), "dtype": "float32", "device_map": place})
    model = load_language_model(config, assets)
    if place == "disk":
        weights = model.model.state_dict()
        assert weights["model.layers.0.mlp.up_proj.weight"].is_meta and not weights["lm_head.weight"].is_meta
    plain, _ = load_causal_lm(ModelConfig(name=str(folder), dtype="float32"), assets)
    _, logs = model.score(model.start_ids(PROMPTS, room=4), [0, 1, 1], [10, 1, 1], [*RESPONSES, [80]])
    for prompt, response, found in zip([*PROMPTS, PROMPTS[1]], [*RESPONSES, [80]], logs, strict=True):
        assert found == pytest.approx(full_log_probabilities(plain, prompt, response), abs=1e-4)


def test_what_is_missing_is_said_in_one_line(folder: Path, assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_options.importlib.util, "find_spec", lambda name: None)
    for option, line in [
        (
            {"quantization": "4bit"},
            "quantization: 4bit needs bitsandbytes: pip install 'trimtab.quantized.', or drop it",
        ),
        ({"attention": "flash_attention_2"}, "flash_attention_2 needs the package flash-attn and a CUDA device"),
    ]:
        with pytest.raises(ModelError, match=line):
            load_causal_lm(ModelConfig.model_validate({"name": str(folder), **option}), assets)


def test_weights_that_are_stored_quantised_are_not_taken_for_whole_ones(folder: Path, assets: Assets) -> None:
    config = (folder / "config.json").read_text()
    stored = '"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}, '
    (folder / "config.json").write_text(config.replace("{", "{" + stored, 1))
    with pytest.raises(ModelError, match=r"quantised already \(4bit\): set quantization: 4bit, or name others"):
        load_causal_lm(ModelConfig(name=str(folder)), assets)


def test_a_model_that_is_quantised_against_the_option_is_caught(
    folder: Path, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As scripts did that quantise even when told not to. Planted: the loader quantises whatever it is told."""
    pytest.importorskip("bitsandbytes")
    sound = load_options.load_options

    def always(config: ModelConfig, *places: object) -> object:
        return sound(config.model_copy(update={"quantization": "4bit"}), *places)

    load_causal_lm(ModelConfig(name=str(folder)), assets)
    monkeypatch.setattr(load, "load_options", always)
    with pytest.raises(AssertionError, match="quantised against the option"):
        load_causal_lm(ModelConfig(name=str(folder)), assets)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_model_decodes_as_its_whole_pass_with_an_adapter_or_without(
    folder: Path, assets: Assets, tmp_path: Path, bits: str
) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    config = llama(1).config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16  # a row is a block of 4-bit weights
    save_causal_lm(folder, LlamaForCausalLM(config))
    plain = {"name": str(folder), "dtype": "float32"}
    adapted = get_peft_model(
        load_causal_lm(ModelConfig.model_validate(plain), assets)[0],
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    weights = Weights(assets)
    found = []
    rounded = {"4bit": 1e-3, "8bit": 0.3}  # LLM.int8() rounds activations too, by the batch that they stand in
    for adapter in (None, str(tmp_path / "adapter")):
        config = ModelConfig.model_validate({**plain, "quantization": bits, "adapter": adapter})
        model = load_language_model(config, weights)
        assert load_options.quantization_of(model.model) == bits and isinstance(model, CachedModel)
        _, logs = model.score(model.start_ids(PROMPTS, room=4), [0, 1], [10, 1], RESPONSES)
        for prompt, response, row in zip(PROMPTS, RESPONSES, logs, strict=True):
            assert row == pytest.approx(full_log_probabilities(model.model, prompt, response), abs=rounded[bits])
        found.append(logs)
    assert max(abs(a - b) for one, two in zip(*found, strict=True) for a, b in zip(one, two, strict=True)) > 0.01
    with pytest.raises(ModelError, match="quantised weights cannot be tuned: drop quantization"):
        tune([], [], weights.of(config)[0], tokenizer(), TuneConfig(), TrainingJob(tmp_path))


def test_eager_attention_is_the_same(folder: Path, assets: Assets) -> None:
    config = {"name": str(folder), "dtype": "float32"}
    found, ran = [], []
    for attention in ("eager", "sdpa"):
        model = load_language_model(ModelConfig.model_validate({**config, "attention": attention}), assets)
        found.append(model.score(model.start_ids(PROMPTS, room=4), [0, 1], [10, 1], RESPONSES)[1])
        ran.append(model.model.config._attn_implementation)
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4) and ran == [EAGER, GROUPED]


def _kernel(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
) -> torch.Tensor:
    """What FlashAttention's kernel promises, [rows, new, heads, dimension], causal from the end of each row."""
    assert causal
    groups = query.shape[2] // keys.shape[2]
    keys, values = (each.repeat_interleave(groups, 2) for each in (keys, values))
    scores = torch.einsum("rqhd,rkhd->rhqk", query, keys) * softmax_scale
    scores = (scores / softcap).tanh() * softcap if softcap else scores
    device = query.device
    places = cache_seqlens[:, None] - query.shape[1] + torch.arange(query.shape[1], device=device)
    ahead = torch.arange(keys.shape[1], device=device)[None, None, :] - places[:, :, None]
    allowed = (ahead <= 0) & ((window_size[0] < 0) | (ahead >= -window_size[0]))
    weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1)
    return torch.einsum("rhqk,rkhd->rqhd", weights, values)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3"])
def test_flash_attention_is_asked_for_what_it_gives(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel runs on accelerators alone; here what it is told is put to a plain one of the same contract."""
    kernel = types.ModuleType("flash_attn")
    kernel.flash_attn_with_kvcache = _kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", kernel)
    expected = CACHED[family](0)
    model = language_model_of(CACHED[family](0), Vocabulary(tokenizer()))
    model.model.set_attn_implementation(FLASH)
    state = model.start_ids(PROMPTS, room=8)
    state, logs = model.score(state, [0, 1, 1], [10, 1, 1], [*RESPONSES, [80]])
    for prompt, response, found in zip([*PROMPTS, PROMPTS[1]], [*RESPONSES, [80]], logs, strict=True):
        assert found == pytest.approx(full_log_probabilities(expected, prompt, response), abs=1e-5)


def test_a_model_and_its_adapter_hold_one_copy_of_weights(folder: Path, assets: Assets, tmp_path: Path) -> None:
    adapted = get_peft_model(
        load_causal_lm(ModelConfig(name=str(folder), dtype="float32"), assets)[0],
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    weights = Weights(assets)
    plain, _ = weights.of(ModelConfig(name=str(folder), dtype="float32"))
    tuned, _ = weights.of(
        ModelConfig(name=str(folder), dtype="float32", adapter=str(tmp_path / "adapter"), template="a {prompt}")
    )
    held = {weight.data_ptr() for weight in plain.parameters()}
    further = [weight for weight in tuned.parameters() if weight.data_ptr() not in held]
    assert sum(weight.numel() for weight in further) == sum(
        weight.numel() for name, weight in adapted.named_parameters() if "lora" in name
    )
    ids = torch.tensor([PROMPTS[0]], device=plain.device)
    with torch.no_grad():
        assert torch.allclose(tuned(ids).logits, adapted(ids).logits, atol=1e-5)
        assert (plain(ids).logits - adapted(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize("place", ["disk", "cpu"])
@pytest.mark.parametrize("tied", ["llama", "gpt2"])
def test_a_tied_model_can_wait_on_a_disk(tied: str, place: str, tmp_path: Path, assets: Assets) -> None:
    """The second name of a tied weight had no place, and the model was called no causal language model."""
    whole = gpt2(1, dtype=torch.float32) if tied == "gpt2" else llama(1, layers=3, dtype=torch.float32)
    if tied == "llama":
        whole.config.tie_word_embeddings = True
        whole.tie_weights()
    folder = save_causal_lm(tmp_path / tied, whole)
    config = ModelConfig.model_validate({"name": str(folder), "dtype": "float32", "device_map": place})
    model = load_language_model(config, assets)
    _, logs = model.score(model.start_ids(PROMPTS, room=4), [0, 1], [10, 1], RESPONSES)
    for prompt, response, found in zip(PROMPTS, RESPONSES, logs, strict=True):
        assert found == pytest.approx(full_log_probabilities(whole, prompt, response), abs=1e-4)


@pytest.mark.parametrize("saved", [["norm"], ["input_layernorm"], ["v_proj"], ["mlp"]])
def test_layers_that_an_adapter_holds_whole_are_its_own_where_the_models_wait(
    saved: list[str], folder: Path, assets: Assets, tmp_path: Path
) -> None:
    """PEFT gave such a copy what fetches the model's own weights from the disk, so that the trained ones were lost."""
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved, init_lora_weights=False)
    adapted = get_peft_model(llama(1, layers=3, dtype=torch.float32), lora).eval()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    adapted.save_pretrained(tmp_path / "adapter")
    plain = llama(1, layers=3, dtype=torch.float32)
    config = ModelConfig.model_validate({"name": str(folder), "dtype": "float32", "device_map": "disk"})
    weights = Weights(assets)
    untuned = load_language_model(config, weights)
    tuned = load_language_model(config.model_copy(update={"adapter": str(tmp_path / "adapter")}), weights)
    for model, whole in ((tuned, adapted), (untuned, plain)):
        _, (found, _) = model.score(model.start_ids(PROMPTS, room=4), [0, 1], [10, 1], RESPONSES)
        assert found == pytest.approx(full_log_probabilities(whole, PROMPTS[0], RESPONSES[0]), abs=1e-4)
