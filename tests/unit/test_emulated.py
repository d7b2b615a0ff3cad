"""Emulated fine-tuning: its identities, several tuned models, and the check of vocabularies."""

import pytest
import torch

from identities import EXACT, PROMPTS, SAMPLING, SEED, log_ratio
from tiny import full_log_probabilities, language_model
from trimtab.errors import VocabularyError
from trimtab.models.emulated import EmulatedModel, emulate
from trimtab.models.language_model import LanguageModel
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

TEXTS = [prompt.text for prompt in PROMPTS]


def sampled(model: LanguageModel) -> list[list[int]]:
    found = Search(max_new_tokens=10).run(PROMPTS, LanguageModelProposer(model, SAMPLING, SEED), None)
    return [each.token_ids for (each,) in found]


def test_weight_zero_is_the_base() -> None:
    base, tuned, untuned = language_model(0), language_model(1), language_model(2)
    assert emulate(base, [(tuned, untuned, 0.0)]) is base


def test_over_the_untuned_model_weight_one_is_the_tuned_model() -> None:
    tuned, untuned = language_model(1), language_model(2)
    assert emulate(untuned, [(tuned, untuned, 1.0)]) is tuned


def test_a_copy_of_the_untuned_model_as_base_gives_the_tuned_one() -> None:
    """The same identity where nothing can be merged: base and untuned are two models with the same weights."""
    base, tuned, untuned = language_model(2), language_model(1), language_model(2)
    emulated = emulate(base, [(tuned, untuned, 1.0)])
    assert isinstance(emulated, EmulatedModel)
    assert sampled(emulated) == sampled(tuned)


def test_logits_are_the_weighted_sum_each_model_under_its_own_template() -> None:
    base = language_model(0, template="Here is a movie review: {prompt}")
    tuned, untuned = language_model(1), language_model(2)
    emulated = emulate(base, [(tuned, untuned, 0.7)])
    found = emulated.next_logits(emulated.start(TEXTS, room=1))
    for row, text in enumerate(TEXTS):
        parts = []
        for model in (base, tuned, untuned):
            ids = torch.tensor([model.vocabulary.encode_prompt(text, model.template)])
            parts.append(model.model(input_ids=ids).logits[0, -1])
        assert (found[row] - (parts[0] + 0.7 * (parts[1] - parts[2]))).abs().max() < EXACT


def test_several_tuned_models_add_up() -> None:
    """Fault of the original: several tuned models crash it."""
    base, untuned = language_model(0), language_model(3)
    pairs = [(language_model(1), untuned, 0.5), (language_model(2), untuned, -0.25)]
    emulated = emulate(base, pairs)
    assert isinstance(emulated, EmulatedModel)
    found = emulated.next_logits(emulated.start(TEXTS, room=1))
    expected = base.next_logits(base.start(TEXTS, room=1)).clone()
    for tuned, other, weight in pairs:
        for model, sign in ((tuned, 1), (other, -1)):
            expected += sign * weight * model.next_logits(model.start(TEXTS, room=1))
    assert (found - expected).abs().max() < EXACT


def test_scores_are_those_of_the_normalized_sum_and_the_state_goes_on() -> None:
    base, tuned, untuned = language_model(0), language_model(1), language_model(2)
    emulated = emulate(base, [(tuned, untuned, 0.7)])
    state = emulated.start(TEXTS[:2], room=8)
    lengths = [len(ids) for ids in state.ids]
    children, logs = emulated.score(state, [1, 0, 1], [lengths[1], lengths[0], lengths[1]], [[5, 6, 7], [8], []])
    for parent, response, found in zip([1, 0, 1], [[5, 6, 7], [8], []], logs, strict=True):
        for place, value in enumerate(found):
            step = emulated.start([TEXTS[parent]], room=8)
            for token in response[:place]:
                emulated.next_logits(step)
                step.append([token])
            expected = torch.log_softmax(emulated.next_logits(step)[0], -1)[response[place]]
            assert abs(value - float(expected)) < EXACT
    assert [ids[-1] for ids in children.ids[:2]] == [7, 8]
    emulated.next_logits(children)


def test_cbs_over_an_emulated_base_values_what_it_returns() -> None:
    base, tuned, untuned = language_model(0), language_model(1), language_model(2)
    emulated = emulate(base, [(tuned, untuned, 0.5)])
    value = ImplicitValue(tuned, untuned, emulated)
    found = Search(2, 2, 3, 9).run(PROMPTS, LanguageModelProposer(emulated, SAMPLING, SEED), value)
    for prompt, group in zip(PROMPTS, found, strict=True):
        for each in group:
            assert abs(each.value - log_ratio(tuned, untuned, prompt, each.token_ids)) < EXACT


def test_unlike_vocabularies_are_refused_with_what_works_instead() -> None:
    """Fault of the original: its check compares a tokenizer with itself."""
    base, tuned, untuned = language_model(0), language_model(1, size=300), language_model(2, size=300)
    with pytest.raises(VocabularyError, match=r"320 and 300 tokens\): use best-of-N or CBS"):
        emulate(base, [(tuned, untuned, 1.0)])


def test_full_pass_reference_is_what_score_equals() -> None:
    model = language_model(0)
    ids = model.vocabulary.encode_prompt("I really", "{prompt}")
    state = model.start(["I really"], room=3)
    _, (found,) = model.score(state, [0], [len(ids)], [[9, 8, 7]])
    assert found == pytest.approx(full_log_probabilities(model.model, ids, [9, 8, 7]), abs=EXACT)
