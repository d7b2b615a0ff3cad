"""Models that differ in their upper layers only: the lower ones are computed once, and no number changes by a bit."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, processors
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaForCausalLM

from identities import PROMPTS, SAMPLING, SEED
from tiny import gpt2, language_model, llama, tokenizer
from trimtab.models.cached_model import CachedModel
from trimtab.models.emulated import emulate
from trimtab.models.kv_cache import SlotCache
from trimtab.models.shared_layers import equal_layers, share_lower_layers
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

Causal = LlamaForCausalLM | GPT2LMHeadModel


def tuned_above(model: Causal, layer: int) -> Causal:
    """A copy whose layers from number `layer` on have other weights."""
    tuned = copy.deepcopy(model)
    torch.manual_seed(9)
    stack = tuned.model.layers if isinstance(tuned, LlamaForCausalLM) else tuned.transformer.h
    with torch.no_grad():
        for changed in list(stack)[layer:]:
            for weight in changed.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return tuned


def as_language_model(model: Causal, template: str = "{prompt}") -> CachedModel:
    return CachedModel(model, Vocabulary(tokenizer()), template)


MODELS = {"llama": lambda: llama(3, layers=4), "gpt2": lambda: gpt2(3)}


@pytest.mark.parametrize("architecture", MODELS)
def test_values_are_those_of_two_whole_models_to_the_bit(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = MODELS[architecture]()
    pair = as_language_model(tuned_above(small, 1)), as_language_model(small)
    base = language_model(0, ends=range(40, 52))

    def values() -> list[list[float]]:
        value = ImplicitValue(*pair, base)
        found = Search(4, 4, 5, 12).run(PROMPTS, LanguageModelProposer(base, SAMPLING, SEED), value)
        return [[each.value for each in group] for group in found]

    before = [model.flops for model in pair]
    shared = values()
    cost = [model.flops - start for model, start in zip(pair, before, strict=True)]
    monkeypatch.setattr("trimtab.search.value.share_lower_layers", lambda first, second: (first, second))
    assert values() == shared
    assert cost[0] < cost[1]  # the tuned model's own layers only


def test_the_sum_of_logits_is_that_of_two_whole_models_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    small = llama(3, layers=4)
    untuned, tuned = as_language_model(small), as_language_model(tuned_above(small, 3))

    def texts() -> list[list[int]]:
        proposer = LanguageModelProposer(emulate(untuned, [(tuned, untuned, 0.5)]), SAMPLING, SEED)
        return [group[0].token_ids for group in Search(max_new_tokens=12).run(PROMPTS, proposer, None)]

    before = tuned.flops
    shared = texts()
    cost = tuned.flops - before
    monkeypatch.setattr("trimtab.models.emulated.share_lower_layers", lambda first, second: (first, second))
    assert texts() == shared
    assert tuned.flops - before > 2 * cost > 0


def test_a_tuned_base_asked_first_is_summed_as_two_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    small = llama(3, layers=4)
    untuned, tuned = as_language_model(small), as_language_model(tuned_above(small, 3))

    def logits() -> torch.Tensor:
        model = emulate(tuned, [(tuned, untuned, 0.5)])
        return model.next_logits(model.start(["I really", "This was"], room=2)).clone()

    shared = logits()
    monkeypatch.setattr("trimtab.models.emulated.share_lower_layers", lambda first, second: (first, second))
    assert torch.equal(logits(), shared)


def test_a_call_that_was_cut_off_between_the_two_leaves_nothing_for_the_next() -> None:
    """As Ctrl-C in a notebook does; the states of both prompts are of one shape."""
    small = llama(3)
    whole = as_language_model(tuned_above(small, 1))
    first, second = share_lower_layers(as_language_model(small), as_language_model(whole.model))
    first.start_ids([[20, 21, 22, 23]], room=2)
    prompt = [[30, 31, 32, 33]]
    asked = [model.start_ids(prompt, room=2) for model in (first, second)]
    first.next_logits(asked[0])
    assert torch.equal(second.next_logits(asked[1]), whole.next_logits(whole.start_ids(prompt, room=2)))


def test_rows_are_selected_on_the_device_of_the_layers_that_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model's lower layers hold nothing; its upper ones may lie on an accelerator, as on `meta` here."""
    small = llama(3)
    first, second = share_lower_layers(as_language_model(small), as_language_model(tuned_above(small, 1)))
    first.start(["I really"], room=2)
    state = second.start(["I really"], room=2)
    lower, upper = state.cache.slots
    assert lower.keys is None and upper.keys is not None
    upper.keys = upper.keys.to("meta")
    devices = []
    monkeypatch.setattr(SlotCache, "select", lambda cache, rows, *_: devices.append(rows.device.type) or cache)
    state.select([0, 0])
    assert devices == ["meta"]


@pytest.mark.parametrize("above", [0, 1, 2, 4])
def test_only_layers_that_are_equal_are_shared(above: int) -> None:
    small = llama(3, layers=4)
    assert equal_layers(small, tuned_above(small, above)) == above


LETTERS = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}"


@cache
def shown(template: str, system: str | None, start: str | None, reads: str) -> tuple[Vocabulary, str]:
    """A vocabulary of the same tokens and ids, whose tokenizer and settings put prompts in a way of their own."""
    made = copy.deepcopy(tokenizer())
    made.chat_template = LETTERS
    backend = made.backend_tokenizer
    if reads == "begins with <start>":
        backend.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 1)])
    elif reads == "begins with <end>":
        backend.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])
    elif reads == "lowercase":
        backend.normalizer = normalizers.Lowercase()
    chat = template == "chat"
    return Vocabulary(made, start_token=start, chat=chat, system=system if chat else None), template


SHOWN = st.builds(
    shown,
    st.sampled_from(["{prompt}", "A{prompt}", "B{prompt}", "{prompt}A", "chat"]),
    st.sampled_from([None, "A", "B", "a longer one"]),
    st.sampled_from([None, "A", "B"]),
    st.sampled_from(["as it is", "begins with <start>", "begins with <end>", "lowercase"]),
)


@settings(max_examples=40, deadline=None)
@given(SHOWN, SHOWN, st.lists(st.sampled_from(["", "I", "i", "A", "B", "Review: I really"]), min_size=1, max_size=3))
@example(shown("chat", "A", None, "as it is"), shown("chat", "B", None, "as it is"), ["I"])  # of equal lengths
@example(shown("{prompt}", None, "A", "as it is"), shown("{prompt}", None, "B", "as it is"), [""])
@example(
    shown("{prompt}", None, None, "begins with <start>"), shown("{prompt}", None, None, "begins with <end>"), ["I"]
)
def test_values_are_right_however_the_two_are_shown_prompts(
    first: tuple[Vocabulary, str], second: tuple[Vocabulary, str], texts: list[str]
) -> None:
    untuned, tuned = CachedModel(SMALL, *first), CachedModel(TUNED, *second)
    prompts = [Prompt(str(number), text) for number, text in enumerate(texts)]

    def values() -> list[list[float]]:
        value = ImplicitValue(tuned, untuned, BASE)
        found = Search(2, 2, 2, 4).run(prompts, LanguageModelProposer(BASE, SAMPLING, SEED), value)
        return [[each.value for each in group] for group in found]

    shared = values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.search.value.share_lower_layers", lambda first, second: (first, second))
        assert values() == shared


SMALL = llama(3, layers=4)
TUNED = tuned_above(SMALL, 2)
BASE = language_model(0, ends=range(40, 52))


def test_the_cost_of_what_each_reads_for_itself_is_counted() -> None:
    small = llama(3)
    pair = as_language_model(small), as_language_model(tuned_above(small, 1), "Review: {prompt}")
    first, second = share_lower_layers(*pair)
    whole = as_language_model(pair[1].model, "Review: {prompt}")
    for model in (first, second, whole):
        model.next_logits(model.start(["I really"], room=2))
    assert pair[1].flops == whole.flops


def test_nothing_is_shared_over_unlike_embeddings() -> None:
    small, other = llama(3), tuned_above(llama(3), 1)
    with torch.no_grad():
        other.model.embed_tokens.weight[7, 0] += 1
    assert equal_layers(small, other) == 0


def test_nothing_is_shared_over_unlike_angles_of_positions() -> None:
    """The configuration sets them: a model of the same weights for longer contexts turns them otherwise."""
    small, other = llama(3), tuned_above(llama(3), 1)
    other.model.rotary_emb.inv_freq.mul_(0.5)
    assert equal_layers(small, other) == 0


FIELDS = {
    "attention": lambda model: model.set_attn_implementation("eager"),
    "angles of positions": lambda model: model.config.rope_parameters.update(rope_theta=99.0),
    "a cap": lambda model: setattr(model.config, "attn_logit_softcapping", 2.0),
    "norms": lambda model: setattr(model.config, "rms_norm_eps", 0.1),
    "a number of one norm": lambda model: setattr(model.model.norm, "variance_epsilon", 0.1),
    "an activation": lambda model: setattr(model.config, "hidden_act", "gelu"),
    "a hook": lambda model: model.model.layers[0].mlp.register_forward_hook(lambda *found: found[-1] * 2),
    "a hook before": lambda model: model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: None),
    "a hook of the body": lambda model: model.model.register_forward_hook(lambda *found: None),
    "code of its own": lambda model: setattr(model.model.layers[0], "forward", lambda hidden, **_: hidden),
    "another kind of layer": lambda model: setattr(model.model.layers[0], "mlp", torch.nn.Identity()),
    "a type": lambda model: model.model.layers[0].mlp.float(),
    "a device": lambda model: model.model.layers[0].mlp.to("meta"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_nothing_is_shared_where_the_same_weights_compute_otherwise(field: str) -> None:
    small, other = llama(3), tuned_above(llama(3), 1)
    assert equal_layers(small, other) == 1
    FIELDS[field](other)
    assert equal_layers(small, other) == equal_layers(other, small) == 0


def test_steering_by_a_hook_has_values() -> None:
    """A tuned model may be the untuned one with a vector added between its layers."""
    small = llama(3)
    steered = copy.deepcopy(small)
    steered.model.layers[0].register_forward_hook(lambda module, given, hidden: hidden + 0.5)
    value = ImplicitValue(as_language_model(steered), as_language_model(small), BASE)
    found = Search(successors=3, keep=3, max_new_tokens=5).run(
        PROMPTS, LanguageModelProposer(BASE, SAMPLING, SEED), value
    )
    assert all(abs(each.value) > 1e-3 for group in found for each in group)


@pytest.mark.parametrize("architecture", MODELS)
def test_what_saving_writes_into_a_configuration_keeps_nothing_apart(architecture: str, tmp_path: Path) -> None:
    small = MODELS[architecture]().float()
    tuned = tuned_above(small, 1)
    for name, model in (("small", small), ("tuned", tuned)):
        model.save_pretrained(tmp_path / name)
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("small", "tuned")]
    loaded[1].config.eos_token_id = [0, 5]
    assert equal_layers(*loaded) == equal_layers(small, loaded[1]) == 1


def test_a_second_model_that_is_asked_alone_is_noticed() -> None:
    small = llama(3)
    first, second = share_lower_layers(as_language_model(small), as_language_model(tuned_above(small, 1)))
    states = [model.start(["I really liked this"], room=2) for model in (first, second)]
    with pytest.raises(AssertionError, match="called before the first"):
        second.next_logits(states[1])
