"""Models that differ in their upper layers only: the lower ones are computed once, and no number changes by a bit."""

import copy

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from identities import PROMPTS, SAMPLING, SEED
from tiny import gpt2, language_model, llama, tokenizer
from trimtab.models.cache import SlotCache
from trimtab.models.emulated import emulate
from trimtab.models.transformers_model import TransformersModel
from trimtab.models.trunk import equal_layers, share_trunk
from trimtab.models.vocabulary import Vocabulary
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


def as_language_model(model: Causal, template: str = "{prompt}") -> TransformersModel:
    return TransformersModel(model, Vocabulary(tokenizer()), template)


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
    monkeypatch.setattr("trimtab.search.value.share_trunk", lambda first, second: (first, second))
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
    monkeypatch.setattr("trimtab.models.emulated.share_trunk", lambda first, second: (first, second))
    assert texts() == shared
    assert tuned.flops - before > 2 * cost > 0


def test_a_tuned_base_asked_first_is_summed_as_two_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    small = llama(3, layers=4)
    untuned, tuned = as_language_model(small), as_language_model(tuned_above(small, 3))

    def logits() -> torch.Tensor:
        model = emulate(tuned, [(tuned, untuned, 0.5)])
        return model.next_logits(model.start(["I really", "This was"], room=2)).clone()

    shared = logits()
    monkeypatch.setattr("trimtab.models.emulated.share_trunk", lambda first, second: (first, second))
    assert torch.equal(logits(), shared)


def test_a_call_that_was_cut_off_between_the_two_leaves_nothing_for_the_next() -> None:
    """As Ctrl-C in a notebook does; the states of both prompts are of one shape."""
    small = llama(3)
    whole = as_language_model(tuned_above(small, 1))
    first, second = share_trunk(as_language_model(small), as_language_model(whole.model))
    first.start_ids([[20, 21, 22, 23]], room=2)
    prompt = [[30, 31, 32, 33]]
    asked = [model.start_ids(prompt, room=2) for model in (first, second)]
    first.next_logits(asked[0])
    assert torch.equal(second.next_logits(asked[1]), whole.next_logits(whole.start_ids(prompt, room=2)))


def test_rows_are_selected_on_the_device_of_the_layers_that_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model's lower layers hold nothing; its upper ones may lie on an accelerator, as on `meta` here."""
    small = llama(3)
    first, second = share_trunk(as_language_model(small), as_language_model(tuned_above(small, 1)))
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


def test_nothing_is_shared_where_the_two_would_read_unlike_tokens() -> None:
    small = llama(3)
    pair = as_language_model(small), as_language_model(tuned_above(small, 1), "Review: {prompt}")
    assert share_trunk(*pair) == pair


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


def test_asking_the_two_for_different_things_is_noticed() -> None:
    small = llama(3)
    first, second = share_trunk(as_language_model(small), as_language_model(tuned_above(small, 1)))
    first.start(["I really liked this"], room=2)
    with pytest.raises(AssertionError, match="different things"):
        second.start(["I really"], room=2)
