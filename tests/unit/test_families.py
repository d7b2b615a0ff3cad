"""Every family decodes and scores as its own whole pass does, texts longer than its windows included."""

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from identities import ENDS, SAMPLING, SEED, reference_beam_search
from tiny import full_log_probabilities, tokenizer
from trimtab.errors import ModelError
from trimtab.models import families
from trimtab.models.cached_model import CachedModel
from trimtab.models.families import CausalModel, language_model_of
from trimtab.models.shared_layers import share_lower_layers
from trimtab.models.uncached_model import UncachedModel
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue
from zoo import CACHED, REREAD, ROUNDED, WINDOW

FAMILIES = {**CACHED, **REREAD}
PROMPT = Prompt("a", "I really liked it")
PROMPTS = [[1, 40, 41, 42, 43, 44, 45, 46, 47, 48], [1], [1, 50, 51]]
RESPONSES = [[60, 61, 62], [70], []]


def as_language_model(model: PreTrainedModel) -> CausalModel:
    return language_model_of(model, Vocabulary(tokenizer()))


def scored(model: CausalModel) -> tuple[list[list[float]], torch.Tensor]:
    """Log-probabilities of the responses, forked once more than there are prompts; the logits that follow them."""
    state = model.start_ids(PROMPTS, room=8)
    parents = [0, 1, 2, 0]
    lengths = [len(PROMPTS[parent]) for parent in parents]
    children, logs = model.score(state, parents, lengths, [*RESPONSES, [80, 81]])
    return logs, model.next_logits(children).clone()


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_one_whole_pass(name: str) -> None:
    model = FAMILIES[name](0)
    untouched = copy.deepcopy(model)
    logs, logits = scored(as_language_model(model))
    for prompt, response, found in zip([*PROMPTS, PROMPTS[0]], [*RESPONSES, [80, 81]], logs, strict=True):
        assert found == pytest.approx(full_log_probabilities(model, prompt, response), abs=ROUNDED.get(name, 1e-9))
        # some families' own attention takes its softmax in float32, ours in the model's float64
        assert found == pytest.approx(full_log_probabilities(untouched, prompt, response), abs=ROUNDED.get(name, 1e-5))
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([[*PROMPTS[0], *RESPONSES[0]]]), use_cache=False).logits[0, -1]
    assert torch.allclose(logits[0], whole, atol=ROUNDED.get(name, 1e-9))


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_goes_on_from_forks_and_cuts(name: str) -> None:
    """Tokens appended one by one to forked and cut-back rows of unlike lengths, beyond every window."""
    model = FAMILIES[name](0)
    language = as_language_model(model)
    children, _ = language.score(language.start_ids(PROMPTS, room=12), [0, 2, 0], [10, 3, 10], [[60, 61], [], [62]])
    rows = language.score(children, [1, 0, 0], [3, 11, 12], [[90], [91, 92], []])[0]
    for step in range(WINDOW):
        logits = language.next_logits(rows)
        for ids, found in zip(rows.ids, logits, strict=True):
            with torch.no_grad():
                whole = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert torch.allclose(found, whole, atol=ROUNDED.get(name, 1e-9)), (name, step)
        rows.append([100 + step, 110 + step, 120 + step])


@pytest.mark.parametrize("name", CACHED)
def test_tokens_are_read_once(name: str) -> None:
    language = as_language_model(CACHED[name](0))
    assert isinstance(language, CachedModel)
    language.next_logits(language.start_ids(PROMPTS, room=4))
    assert language.tokens_read == sum(map(len, PROMPTS))


@pytest.mark.parametrize("name", FAMILIES)
def test_search_equals_the_reference_with_the_family_as_base_and_as_guide(name: str) -> None:
    base, tuned, untuned = (
        language_model_of(FAMILIES[name](seed), Vocabulary(tokenizer(), ENDS if seed == 0 else ())) for seed in range(3)
    )
    search, prompt = Search(width=2, successors=2, chunk=3, max_new_tokens=8), PROMPT
    found = search.run([prompt], LanguageModelProposer(base, SAMPLING, SEED), ImplicitValue(tuned, untuned, base))
    expected = reference_beam_search(search, base, tuned, untuned, prompt)
    assert [each.token_ids for each in found[0]] == [ids for ids, _ in expected]
    values = [value for _, value in expected]
    assert [each.value for each in found[0]] == pytest.approx(values, abs=20 * ROUNDED.get(name, 1e-9))


@pytest.mark.parametrize("name", REREAD)
def test_what_cannot_be_forked_is_read_anew_and_says_so_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = REREAD[name](0)
    with caplog.at_level(logging.WARNING):
        models = [as_language_model(model) for _ in range(2)]
    assert all(isinstance(model, UncachedModel) for model in models)
    (warning,) = [record for record in caplog.records if record.name.startswith("trimtab.")]
    assert "is decoded without a cache" in warning.getMessage()


@pytest.mark.parametrize("name", CACHED)
def test_shared_layers_change_no_bit(name: str) -> None:
    untuned = CACHED[name](0)
    tuned = copy.deepcopy(untuned)
    with torch.no_grad():
        last = [weight for part, weight in tuned.named_parameters() if ".2." in part]
        assert last
        for weight in last:
            weight.add_(0.1)
    pair = as_language_model(untuned), as_language_model(tuned)
    alone = [scored(model) for model in pair]
    first, second = share_lower_layers(*pair)
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


def test_a_text_may_be_longer_than_a_window_and_not_than_the_positions() -> None:
    model = as_language_model(CACHED["mistral"](0))
    model.start_ids([[1] * 60], room=196)
    with pytest.raises(ModelError, match="context of 256"):
        model.start_ids([[1] * 60], room=197)


@pytest.mark.parametrize("spoil", [lambda logits: logits.sin(), lambda logits: logits.softmax(-1)])
def test_logits_that_no_head_gives_are_the_models_own(spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = CACHED["llama"](0)
    plain = model.forward

    def forward(*args: object, **kwargs: object) -> object:
        output = plain(*args, **kwargs)
        output.logits = spoil(output.logits)
        return output

    model.forward = forward
    language = as_language_model(model)
    assert isinstance(language, UncachedModel)
    for prompt, response, found in zip(PROMPTS, RESPONSES, scored(language)[0], strict=False):
        assert found == pytest.approx(full_log_probabilities(model, prompt, response), abs=1e-9)


def test_a_model_whose_cached_reading_differs_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one would that masks by something other than positions; here a wrong token stands for a wrong mask."""
    sound = families.CachedModel.start_ids

    def shifted(self: CachedModel, prompts: list[list[int]], room: int) -> object:
        return sound(self, [[*ids[:-1], 9] for ids in prompts], room)

    monkeypatch.setattr(families.CachedModel, "start_ids", shifted)
    assert isinstance(as_language_model(CACHED["llama"](0)), UncachedModel)
