"""Models load whole, in the asked type, or fail in one line; no code of a checkpoint runs."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, BertModel

import tiny
from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.errors import AssetError, ModelError, TrimtabError
from trimtab.models import load
from trimtab.models.hardware import pick_dtype
from trimtab.models.load import load_causal_lm, load_classifier

IDS = torch.tensor([[1, 50, 60, 70]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny.llama(seed=1, dtype=torch.float32).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved model, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    return Assets(cache=tmp_path / "cache")


def test_a_saved_model_loads_as_it_was(saved: Path, assets: Assets) -> None:
    model, tokenizer = load_causal_lm(ModelConfig(name=str(saved), dtype="float32"), assets)
    with torch.no_grad():
        ours = model(IDS.to(model.device)).logits.cpu()
        torch.testing.assert_close(ours, tiny.llama(seed=1, dtype=torch.float32)(IDS).logits, atol=1e-4, rtol=1e-4)
    assert not model.training and model.config._attn_implementation == "sdpa"
    assert tokenizer.eos_token == "<end>"


@pytest.mark.parametrize("name", ["float64", "bfloat16"])
def test_the_asked_type_is_used(saved: Path, assets: Assets, name: str) -> None:
    model, _ = load_causal_lm(ModelConfig.model_validate({"name": str(saved), "dtype": name}), assets)
    assert {parameter.dtype for parameter in model.parameters()} == {pick_dtype(name, torch.device("cpu"))}


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_f": True, "amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], dtype: torch.dtype
) -> None:
    """On an AVX2 machine bfloat16 is six times slower than float32, with AVX512-BF16 four times faster."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert pick_dtype("auto", torch.device("cpu")) == dtype


def test_an_adapter_is_merged(saved: Path, assets: Assets, tmp_path: Path) -> None:
    base = tiny.llama(seed=1, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    config = ModelConfig(name=str(saved), dtype="float32", adapter=str(tmp_path / "adapter"))
    model, _ = load_causal_lm(config, assets)
    plain, _ = load_causal_lm(ModelConfig(name=str(saved), dtype="float32"), assets)
    with torch.no_grad():
        merged, expected = model(IDS.to(model.device)).logits.cpu(), adapted(IDS).logits
        torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
        assert (plain(IDS.to(plain.device)).logits.cpu() - expected).abs().max() > 1e-2
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_an_adapter_of_another_model_is_one_line(saved: Path, assets: Assets, tmp_path: Path) -> None:
    gpt2 = get_peft_model(tiny.gpt2(seed=1), LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    gpt2.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="adapter"):
        load_causal_lm(ModelConfig(name=str(saved), adapter=str(tmp_path / "adapter")), assets)


def fails(folder: Path, assets: Assets, kind: type[TrimtabError] = ModelError, *, allow_pickle: bool = False) -> str:
    with pytest.raises(kind) as caught:
        load_causal_lm(ModelConfig(name=str(folder), allow_pickle=allow_pickle), assets)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_a_folder_without_tokenizer(folder: Path, assets: Assets) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in fails(folder, assets)


@pytest.mark.parametrize("config", ["{nope", "{}", '{"model_type": "zork"}', '{"model_type": "t5"}'])
def test_a_config_that_names_no_causal_lm(folder: Path, assets: Assets, config: str) -> None:
    (folder / "config.json").write_text(config)
    fails(folder, assets)


def test_truncated_weights(folder: Path, assets: Assets) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    fails(folder, assets)


def test_weights_of_an_encoder_are_not_filled_up_at_random(assets: Assets, folder: Path) -> None:
    """transformers would draw the missing head and say so in a log line only."""
    BertModel(BertConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        folder
    )
    assert "lack" in fails(folder, assets)


def test_code_of_a_checkpoint_does_not_run(folder: Path, assets: Assets) -> None:
    config = {"model_type": "zork", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    fails(folder, assets)
    assert not (folder / "ran").exists()


class _Runs:
    """An object whose pickle creates a folder when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (self.path,)


def test_pickled_weights_load_only_where_allowed_and_never_run(folder: Path, assets: Assets) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny.llama(seed=1, dtype=torch.float32).state_dict(), folder / "pytorch_model.bin")
    assert "allow_pickle" in fails(folder, assets, AssetError)
    load_causal_lm(ModelConfig(name=str(folder), allow_pickle=True), assets)
    torch.save({"lm_head.weight": _Runs(str(folder / "ran"))}, folder / "pytorch_model.bin")
    assert "not run" in fails(folder, assets, allow_pickle=True)
    assert not (folder / "ran").exists()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A BERT without a head, and one with."""
    root = tmp_path_factory.mktemp("encoders")
    config = BertConfig(
        vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=2
    )
    for name, kind in (("bare", BertModel), ("ready", BertForSequenceClassification)):
        kind(config).save_pretrained(root / name)
        tiny.tokenizer().save_pretrained(root / name)
    return root / "bare", root / "ready"


def test_an_encoder_becomes_a_classifier_only_on_request(encoder: tuple[Path, Path], assets: Assets) -> None:
    """A reward with a random head would look like any other."""
    bare, ready = encoder
    with pytest.raises(ModelError, match=r"reward\.training"):
        load_classifier(str(bare), assets, allow_pickle=False)
    model, _ = load_classifier(str(bare), assets, allow_pickle=False, num_labels=3)
    assert model(IDS.to(model.device)).logits.shape == (1, 3)
    model, _ = load_classifier(str(ready), assets, allow_pickle=False)
    assert model(IDS.to(model.device)).logits.shape == (1, 2) and not model.training


def test_the_default_device_is_one_that_is_there() -> None:
    assert torch.zeros(1, device=load.default_device()).item() == 0


@pytest.mark.parametrize("fails", [False, True])
def test_loading_leaves_transformers_as_talkative_as_it_was(folder: Path, assets: Assets, fails: bool) -> None:
    """In a notebook its own models are to show their bars and remarks after one of ours was loaded."""
    logs = transformers.utils.logging
    before = logs.get_verbosity(), logs.is_progress_bar_enabled()
    if fails:
        (folder / "model.safetensors").write_bytes(b"")
    try:
        logs.set_verbosity_info()
        logs.enable_progress_bar()
        with contextlib.suppress(ModelError):
            load_causal_lm(ModelConfig(name=str(folder)), assets)
        assert logs.get_verbosity() == logs.INFO and logs.is_progress_bar_enabled()
    finally:
        logs.set_verbosity(before[0])
        if not before[1]:
            logs.disable_progress_bar()
