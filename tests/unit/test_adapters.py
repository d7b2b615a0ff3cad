"""Adapters of PEFT: the tuned model is PEFT's own to the bit, and the untuned one is what it was before."""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, PreTrainedModel

import trimtab
from peft_methods import METHODS, saved, settings_of, trained
from tiny import gpt2, llama, tokenizer
from tiny_hub import save_causal_lm
from trimtab.assets.resolve import Assets
from trimtab.config.models import ModelConfig
from trimtab.errors import ModelError
from trimtab.models.families import language_model_of
from trimtab.models.language_model import LanguageModel
from trimtab.models.load import load_causal_lm, with_adapter
from trimtab.models.roles import Weights, load_language_model
from trimtab.models.vocabulary import Vocabulary
from zoo import CACHED

IDS = [5, 9, 30, 41, 7]
Q = ["q_proj"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def small() -> LlamaForCausalLM:
    return llama(1, dtype=torch.float32)


def tied() -> LlamaForCausalLM:
    model = small()
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = True
    torch.manual_seed(1)
    return LlamaForCausalLM(config).eval()


def biased() -> PreTrainedModel:
    return CACHED["qwen2"](0).float()


def gpt() -> PreTrainedModel:
    return gpt2(1, dtype=torch.float32)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([IDS])).logits[0]


def decoded(model: LanguageModel) -> torch.Tensor:
    return model.next_logits(model.start_ids([IDS], 4))[0].clone()


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def unchanged(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = dict([*model.named_parameters(), *model.named_buffers()])
    return now.keys() == before.keys() and all(torch.equal(tensor, before[name]) for name, tensor in now.items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_peft_leaves_the_untuned_model_what_it_was(method: str, tmp_path: Path) -> None:
    settings = settings_of(method)
    folder = saved(small(), settings, tmp_path)
    untuned = small()
    before = snapshot(untuned)
    try:
        tuned = with_adapter(untuned, str(folder), Assets())
    except ModelError as error:
        assert "\n" not in str(error)
        changes_prompt = settings.is_prompt_learning
        assert changes_prompt == ("it changes the prompt, not the weights" in str(error))
        # those that read a text as a whole, or need to be told the task of each
        assert changes_prompt or method in ("LILY", "SHADOW", "POLY"), str(error)
    else:
        expected = logits(PeftModel.from_pretrained(small(), folder).eval())
        assert torch.equal(logits(tuned), expected)
        assert (expected - logits(untuned)).abs().max() > 1e-2
        # as decoded, through the cache and forks
        model = language_model_of(tuned, Vocabulary(tokenizer()))
        assert (decoded(model) - expected[-1]).abs().max() < 1e-4
    assert unchanged(untuned, before) and type(untuned).__name__ in repr(untuned)
    assert torch.equal(logits(untuned), logits(small()))


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(**{"target_modules": Q, "r": 2, "task_type": "CAUSAL_LM", **settings})


VARIANTS: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[], LoraConfig]]] = {
    "plain": (small, lora),
    "biases of all": (biased, lambda: lora(bias="all")),
    "biases of adapted maps": (biased, lambda: lora(bias="lora_only")),
    "GPT-2's biases": (gpt, lambda: lora(target_modules=["c_attn"], bias="all", fan_in_fan_out=True)),
    "a bias of its own": (gpt, lambda: lora(target_modules=["c_attn"], lora_bias=True, fan_in_fan_out=True)),
    "PiSSA": (small, lambda: lora(init_lora_weights="pissa")),
    "OLoRA": (small, lambda: lora(init_lora_weights="olora")),
    "orthogonal": (small, lambda: lora(init_lora_weights="orthogonal")),
    "DoRA": (small, lambda: lora(use_dora=True)),
    "rsLoRA": (small, lambda: lora(use_rslora=True)),
    "head": (small, lambda: lora(target_modules=["lm_head", "q_proj"])),
    "head, DoRA": (small, lambda: lora(target_modules=["lm_head"], use_dora=True)),
    "table": (small, lambda: lora(target_modules=["embed_tokens", "q_proj"])),
    "tied head": (tied, lambda: lora(target_modules=["lm_head"])),
    "tied table": (tied, lambda: lora(target_modules=["embed_tokens"])),
    "both of two tied": (tied, lambda: lora(target_modules=["embed_tokens", "lm_head"])),
    "both of two tied, kept tied": (tied, lambda: lora(target_modules=["embed_tokens"], ensure_weight_tying=True)),
    "retrained head": (small, lambda: lora(modules_to_save=["lm_head"])),
    "retrained tied head": (tied, lambda: lora(modules_to_save=["lm_head"])),
    "retrained table": (small, lambda: lora(modules_to_save=["embed_tokens"])),
    "retrained tied table": (tied, lambda: lora(modules_to_save=["embed_tokens"])),
    "retrained both": (tied, lambda: lora(modules_to_save=["embed_tokens", "lm_head"])),
    "retrained, kept tied": (tied, lambda: lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "tokens": (small, lambda: lora(trainable_token_indices=[5, 9, 7])),
    "tokens, tied": (tied, lambda: lora(trainable_token_indices=[5, 9, 7])),
    "tokens of GPT-2": (
        gpt,
        lambda: lora(
            target_modules=["c_attn"], fan_in_fan_out=True, trainable_token_indices={"wte": [5, 7], "wpe": [1]}
        ),
    ),
    "norms": (small, lambda: lora(modules_to_save=["norm", "input_layernorm"])),
    "experts": (
        lambda: CACHED["mixtral"](0).float(),
        lambda: lora(target_modules=None, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_entrance_gives_the_logits_of_peft(name: str, tmp_path: Path) -> None:
    """By `adapter:` beside the untuned model, merged to be trained further, and as an object."""
    make, settings = VARIANTS[name]
    adapter = saved(make(), settings(), tmp_path / "adapter", scale=0.3)
    given = PeftModel.from_pretrained(make(), adapter).eval()
    expected = logits(given)
    plain = ModelConfig(name=str(save_causal_lm(tmp_path / "model", make())), dtype="float32")
    weights = Weights(Assets())
    untuned = load_language_model(plain, weights)
    before = snapshot(untuned.model)
    tuned = load_language_model(plain.model_copy(update={"adapter": str(adapter)}), weights)
    assert (expected - logits(make())).abs().max() > 1e-2
    assert (decoded(tuned) - expected[-1]).abs().max() < 1e-4
    assert unchanged(untuned.model, before)
    assert (decoded(untuned) - logits(make())[-1]).abs().max() < 1e-4
    whole, _ = load_causal_lm(plain.model_copy(update={"adapter": str(adapter)}), Assets())
    assert (logits(whole) - expected).abs().max() < 1e-4
    assert all(weight.requires_grad for weight in whole.parameters())  # it can be tuned on, all weights of it
    whole.save_pretrained(tmp_path / "whole")
    again, _ = load_causal_lm(plain.model_copy(update={"name": str(save_tokenizer(tmp_path / "whole"))}), Assets())
    assert (logits(again) - expected).abs().max() < 1e-4
    assert (decoded(trimtab.load(given, tokenizer())) - expected[-1]).abs().max() < 1e-4
    assert torch.equal(logits(given), expected)


def save_tokenizer(folder: Path) -> Path:
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapted_head_in_16_bits_is_that_of_peft(dtype: torch.dtype, tmp_path: Path) -> None:
    settings = lora(target_modules=["lm_head"], lora_bias=True)
    model = trained(tied().to(dtype), settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(5.0 if "lora_B" in name and "bias" in name else 0.0)  # beside which weights round away
    found = decoded(trimtab.load(model, tokenizer())).float()
    assert (found - logits(model)[-1].float()).norm() < 0.01 * found.norm()


def test_an_adapter_that_starts_at_random_is_refused(tmp_path: Path) -> None:
    """What was trained beside other weights than those that a load gives is no model."""
    saved(small(), lora(init_lora_weights="pissa_niter_4"), tmp_path)
    untuned = small()
    for merge in (False, True):
        with pytest.raises(ModelError, match=r"changes its model at random .* convert it to plain LoRA"):
            with_adapter(untuned, str(tmp_path), Assets(), merge=merge)
    assert unchanged(untuned, snapshot(small()))


def test_only_what_an_adapter_changes_is_held_twice(tmp_path: Path) -> None:
    for number, (settings, make) in enumerate([(lora(), small), (lora(bias="all"), biased)]):
        folder = saved(make(), settings, tmp_path / str(number))
        untuned = make()
        tuned = with_adapter(untuned, str(folder), Assets())
        held = {weight.data_ptr() for weight in untuned.parameters()}
        more = {name for name, weight in tuned.named_parameters() if weight.data_ptr() not in held}
        assert more and all("lora" in name or name.endswith("bias") for name in more)
        assert number or not any("bias" in name for name in more)


def test_a_file_that_does_not_fit_leaves_the_untuned_model_what_it_was(tmp_path: Path) -> None:
    """PEFT writes the biases before it finds out about the rest."""
    folder = saved(biased(), lora(bias="all"), tmp_path)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    last = sorted(name for name in tensors if "lora_B" in name)[-1]
    save_file({**tensors, last: torch.zeros(7, 3)}, file)
    untuned = biased()
    before = snapshot(untuned)
    with pytest.raises(ModelError, match="does not fit its model"):
        with_adapter(untuned, str(folder), Assets())
    assert unchanged(untuned, before)


@pytest.mark.parametrize(
    ("tuned", "given", "fault"),
    [
        (4, 2, r"it has base_model\.model\.model\.layers\.2\S+, and the model does not"),
        (2, 4, "its file lacks weights"),
    ],
)
def test_an_adapter_of_more_or_fewer_layers_is_refused(tuned: int, given: int, fault: str, tmp_path: Path) -> None:
    """PEFT reads what it finds a place for; the rest would stay untuned without a word."""
    saved(llama(1, layers=tuned, dtype=torch.float32), lora(), tmp_path)
    with pytest.raises(ModelError, match=fault):
        with_adapter(llama(1, layers=given, dtype=torch.float32), str(tmp_path), Assets())


def test_an_adapter_under_other_names_is_refused(tmp_path: Path) -> None:
    file = saved(small(), lora(), tmp_path) / "adapter_model.safetensors"
    save_file({name.replace("model.layers", "model.decoder.layers"): w for name, w in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="its file lacks weights of layers that it adapts"):
        with_adapter(small(), str(tmp_path), Assets())


STATES: dict[str, Callable[[PeftModel], object]] = {
    "as it is": lambda model: None,
    "merged": lambda model: model.merge_adapter(),
    "disabled": lambda model: model.base_model.disable_adapter_layers(),
    "in training": lambda model: model.train(),
    "two active": lambda model: (
        model.add_adapter("more", lora(target_modules=["v_proj"], init_lora_weights=False)),
        model.base_model.set_adapter(["default", "more"]),
    ),
    "another active": lambda model: (
        model.add_adapter("other", lora(init_lora_weights=False)),
        model.set_adapter("other"),
    ),
    "two on one head": lambda model: (
        model.add_adapter("more", lora(target_modules=["lm_head"], init_lora_weights=False)),
        model.base_model.set_adapter(["default", "more"]),
    ),
}


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_a_given_adapter_is_read_as_it_stands_and_stays_so(state: str, head: bool) -> None:
    settings = lora(target_modules=["q_proj", *["lm_head"] * head], lora_dropout=0.5)
    model = trained(small(), settings)
    STATES[state](model)
    modes = [part.training for part in model.modules()]
    asked = [weight.requires_grad for weight in model.parameters()]
    model.eval()
    expected = logits(model)
    for part, mode in zip(model.modules(), modes, strict=True):
        part.training = mode
    before = snapshot(model)
    assert (decoded(trimtab.load(model, tokenizer())) - expected[-1]).abs().max() < 1e-4
    assert [part.training for part in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == asked
    assert unchanged(model, before)
    model.eval()
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_base_that_peft_has_changed_in_place_is_untuned_again_or_refused(method: str) -> None:
    """PEFT puts its layers into the very object that it is given."""
    model = small()
    trained(model, settings_of(method))
    try:
        untuned = trimtab.load(model, tokenizer())
    except ModelError as error:
        assert "is the base of a PeftModel" in str(error) and method in ("ADAPTION_PROMPT", "SHADOW")
    else:
        assert torch.equal(logits(untuned.model), logits(trimtab.load(small(), tokenizer()).model))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: trimtab.load(model, tokenizer())])
def test_a_guide_of_a_peft_model_and_its_own_base_is_that_of_two_models(
    wrap: Callable[[PreTrainedModel | PeftModel], Any], tmp_path: Path
) -> None:
    folder = save_causal_lm(tmp_path / "model", small())
    loaded = LlamaForCausalLM.from_pretrained(folder)
    adapted = trained(loaded, lora())
    base = trimtab.load(llama(2, dtype=torch.float32), tokenizer())
    search = trimtab.Search(successors=3, keep=3)

    def values(guide: trimtab.Guide) -> list[float]:
        return [each.value for each in guide.steer(base, search=search).hypotheses(["I"], 6)[0]]

    found = values(trimtab.Guide(wrap(adapted), wrap(loaded)))
    merged = copy.deepcopy(adapted).merge_and_unload()
    expected = values(trimtab.Guide(trimtab.load(merged, tokenizer()), trimtab.load(small(), tokenizer())))
    assert found == pytest.approx(expected, abs=1e-4) and max(map(abs, found)) > 0.01


@pytest.mark.parametrize(
    ("make", "settings", "merge"),
    [
        (biased, lambda: lora(bias="all"), False),
        (small, lambda: lora(init_lora_weights="pissa"), False),
        (small, lambda: lora(init_lora_weights="olora"), False),
        (small, lora, True),
    ],
)
def test_a_base_whose_weights_an_adapter_has_changed_is_refused(
    make: Callable[[], PreTrainedModel], settings: Callable[[], LoraConfig], merge: bool
) -> None:
    model = make()
    adapted = trained(model, settings())
    if merge:
        adapted.merge_adapter()
    with pytest.raises(ModelError, match=r"\(LORA\) has changed its weights: load the untuned model apart"):
        trimtab.load(model, tokenizer())
    trimtab.load(adapted, tokenizer())


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_an_adapter_on_quantised_weights_is_read_by_both_entrances(bits: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = small().config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16  # a row is a block of 4-bit weights
    torch.manual_seed(0)
    folder = save_causal_lm(tmp_path / "model", LlamaForCausalLM(config))
    plain = ModelConfig.model_validate({"name": str(folder), "dtype": "float32", "quantization": bits})
    weights = Weights(Assets())
    held, _ = weights.of(plain)
    targets = ["q_proj", "lm_head"]
    adapter = saved(load_causal_lm(plain, Assets())[0], lora(target_modules=targets), tmp_path / "adapter", scale=0.3)
    given = PeftModel.from_pretrained(load_causal_lm(plain, Assets())[0], adapter).eval()
    expected = logits(given)
    before = logits(held)
    rounded = {"4bit": 0.02, "8bit": 0.1}[bits] * expected.norm()  # bitsandbytes rounds scales anew on some processors
    tuned = load_language_model(plain.model_copy(update={"adapter": str(adapter)}), weights)
    for model in (tuned, trimtab.load(given, tokenizer())):
        assert (decoded(model) - expected[-1]).norm() < rounded
    assert (expected - before).norm() > 2 * rounded
    assert torch.equal(logits(held), before) and torch.equal(logits(given), expected)
    untuned = trimtab.load(given.get_base_model(), tokenizer())
    assert (decoded(untuned) - before[-1]).norm() < rounded


def test_an_adapter_that_transformers_has_loaded_is_a_part_of_the_model(tmp_path: Path) -> None:
    for targets in (["q_proj"], ["q_proj", "lm_head"]):
        folder = saved(small(), lora(target_modules=targets), tmp_path / str(len(targets)))
        model = small()
        model.load_adapter(str(folder))
        expected = logits(model)
        assert (expected - logits(small())).abs().max() > 1e-2
        assert (decoded(trimtab.load(model, tokenizer())) - expected[-1]).abs().max() < 1e-4


@pytest.mark.parametrize("family", CACHED)
def test_a_model_that_someone_holds_stays_what_it_was(family: str) -> None:
    """It attends, generates and trains as before: what decoding needs is set in a view over the same weights."""
    model = CACHED[family](0)
    model.train()
    ids = torch.tensor([[7, 8, 9, 10, 11], [0, 0, 5, 9, 30]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])

    def outputs() -> list[torch.Tensor]:
        torch.manual_seed(0)
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            text = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
        return [text, hidden.logits, *hidden.hidden_states]

    before = outputs()
    settings = model.config.get_text_config()
    attention, written = settings._attn_implementation, model.config.to_dict()
    asked = [weight.requires_grad for weight in model.parameters()]
    loaded = trimtab.load(model, tokenizer())
    trimtab.Guide.by_reward(lambda texts: [0.0 for _ in texts]).steer(loaded, search=trimtab.Search(2, 2, 2)).generate(
        "I really", 4
    )
    assert model.training and all(part.training for part in model.modules()) and not loaded.model.training
    assert settings._attn_implementation == attention and model.config.to_dict() == written
    assert [weight.requires_grad for weight in model.parameters()] == asked
    for now, then in zip(outputs(), before, strict=True):
        assert torch.equal(now.nan_to_num(), then.nan_to_num())
    held = {weight.data_ptr() for weight in model.parameters()}
    assert {weight.data_ptr() for weight in loaded.model.parameters()} == held


def test_a_model_that_is_trained_on_is_read_as_it_is_then() -> None:
    model = small()
    loaded = trimtab.load(model, tokenizer())
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(0.5)
    assert (decoded(loaded) - logits(model)[-1]).abs().max() < 1e-4


def test_a_compiled_model_is_read_as_the_one_that_it_was_made_of() -> None:
    model = small()
    found = decoded(trimtab.load(torch.compile(model), tokenizer()))
    assert torch.equal(found, decoded(trimtab.load(model, tokenizer())))
    adapted = trained(small(), lora())
    compiled = torch.compile(adapted)
    assert torch.equal(decoded(trimtab.load(compiled, tokenizer())), decoded(trimtab.load(adapted, tokenizer())))


def test_an_object_that_is_no_model_is_one_line() -> None:
    for given in (
        torch.nn.Linear(2, 2),
        get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(target_modules=["0"])),
    ):
        with pytest.raises(ModelError, match=r"no causal language model|no model of transformers"):
            trimtab.load(given, tokenizer())
