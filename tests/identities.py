"""The identities that hold for any weights, as checks that raise AssertionError: tests call them on sound code, and
the tests of planted faults call them on code with one fault in it."""

from collections.abc import Sequence

import torch

from tiny import full_log_probabilities, language_model
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.sampling import draw, prompt_key, uniforms
from trimtab.records import Finish, Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

PROMPTS = [
    Prompt("a", "I really"),
    Prompt("b", "This was the worst film that I have ever seen."),
    Prompt("c", "x"),
    Prompt("d", "Here is a movie"),
]
SAMPLING = SamplingConfig(temperature=1.3, top_k=0, top_p=0.98)
SEED = 5
EXACT = 1e-9
ENDS = range(40, 52)  # tokens that end a response of the base, besides its own end token


def searched(
    search: Search, *, same_vocabulary: bool = True, prompts: Sequence[Prompt] = PROMPTS
) -> tuple[list[list[Hypothesis]], CachedModel, CachedModel, CachedModel]:
    """The search's hypotheses, and the base, tuned and untuned models behind them."""
    size = 320 if same_vocabulary else 300
    base = language_model(0, ends=ENDS)
    tuned, untuned = language_model(1, size=size), language_model(2, size=size)
    value = ImplicitValue(tuned, untuned, base)
    found = search.run(prompts, LanguageModelProposer(base, SAMPLING, SEED), value)
    return found, base, tuned, untuned


def log_ratio(tuned: CachedModel, untuned: CachedModel, prompt: Prompt, response: Sequence[int]) -> float:
    """log p_tuned - log p_untuned of a response, each from one pass without a cache."""
    ids = tuned.vocabulary.encode_prompt(prompt.text, tuned.template)
    logs = [sum(full_log_probabilities(model.model, ids, response)) for model in (tuned, untuned)]
    return logs[0] - logs[1]


def sample(base: CachedModel, prompt: Prompt, slot: int, response: list[int], tokens: int) -> list[int]:
    """Continue a response by plain sampling, one prompt alone, everything read anew for every token."""
    ids = base.vocabulary.encode_prompt(prompt.text, base.template)
    response = list(response)
    for _ in range(tokens):
        if response and response[-1] in base.vocabulary.eos_ids:
            break
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([[*ids, *response]]), use_cache=False).logits[:, -1]
        number = uniforms(SEED, [prompt_key(prompt.id)], [slot], [len(response)])
        response += draw(logits, [0], number, SAMPLING)
    return response


def reference_beam_search(
    search: Search, base: CachedModel, tuned: CachedModel, untuned: CachedModel, prompt: Prompt
) -> list[tuple[list[int], float]]:
    """The paper's algorithm, one prompt at a time, with no cache, no batch and no incremental value."""
    ends = base.vocabulary.eos_ids

    def closed(ids: Sequence[int]) -> bool:
        return bool(ids) and (ids[-1] in ends or len(ids) >= search.max_new_tokens)

    beams: list[list[int]] = [[]]
    successors = search.width * search.successors
    while not all(closed(beam) for beam in beams):
        chunk = search.chunk or search.max_new_tokens
        candidates = [beam for beam in beams if closed(beam)]
        for place, beam in enumerate(beams):
            if not closed(beam):
                room = min(chunk, search.max_new_tokens - len(beam))
                slots = range(place * successors, (place + 1) * successors)
                candidates += [sample(base, prompt, slot, beam, room) for slot in slots]
        candidates.sort(key=lambda ids: log_ratio(tuned, untuned, prompt, ids), reverse=True)
        beams, successors = candidates[: search.width], search.successors
    return [(beam, log_ratio(tuned, untuned, prompt, beam)) for beam in beams]


def check_beam_search_equals_reference(search: Search) -> None:
    found, base, tuned, untuned = searched(search)
    for prompt, hypotheses in zip(PROMPTS, found, strict=True):
        expected = reference_beam_search(search, base, tuned, untuned, prompt)
        assert [each.token_ids for each in hypotheses] == [ids for ids, _ in expected]
        for each, (_, value) in zip(hypotheses, expected, strict=True):
            assert abs(each.value - value) < EXACT


def check_values_are_rescored_and_in_order(search: Search, *, same_vocabulary: bool) -> None:
    found, _, tuned, untuned = searched(search, same_vocabulary=same_vocabulary)
    for prompt, hypotheses in zip(PROMPTS, found, strict=True):
        values = [each.value for each in hypotheses]
        assert values == sorted(values, reverse=True)
        for each in hypotheses:
            response = each.token_ids
            if not same_vocabulary:
                end = [tuned.vocabulary.end_id] if each.finish == "eos" else []
                response = tuned.vocabulary.encode_response(each.text) + end
            assert abs(each.value - log_ratio(tuned, untuned, prompt, response)) < EXACT


def check_end_counts_only_where_sampled(search: Search) -> None:
    """The end is in the ids, and so in the value, exactly where the model sampled it; both cases occur."""
    found, base, tuned, untuned = searched(search)
    seen: set[Finish | None] = set()
    for prompt, hypotheses in zip(PROMPTS, found, strict=True):
        for each in hypotheses:
            seen.add(each.finish)
            assert (each.token_ids[-1] in base.vocabulary.eos_ids) == (each.finish == "eos")
            assert abs(each.value - log_ratio(tuned, untuned, prompt, each.token_ids)) < EXACT
    assert {"eos", "length"} <= seen, seen
