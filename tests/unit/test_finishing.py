"""Why responses end, and what that leaves: end tokens, stop strings across tokens and chunks, greedy decoding."""

from collections.abc import Sequence

import pytest
import torch

from identities import EXACT, PROMPTS, SAMPLING, SEED, log_ratio
from tiny import language_model
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue

CBS = Search(3, 3, 2, 16)


def response_text(base: CachedModel, prompt: Prompt, ids: Sequence[int]) -> str:
    return base.vocabulary.decode_response(base.vocabulary.encode_prompt(prompt.text, "{prompt}"), ids)


def stop_across_tokens(base: CachedModel) -> str:
    """Two characters that plain samples have on both sides of a token's end, and of a chunk's end."""
    for group, prompt in zip(Search(successors=24, max_new_tokens=16, keep=24).run(
        PROMPTS, LanguageModelProposer(base, SAMPLING, SEED), None
    ), PROMPTS, strict=True):  # fmt: skip
        for each in group:
            for cut in range(4, len(each.token_ids), 2):  # chunks are of 2 tokens
                left = response_text(base, prompt, each.token_ids[:cut])
                both = response_text(base, prompt, each.token_ids[: cut + 1])
                pair = both[len(left) - 1 : len(left) + 1]
                if both.startswith(left) and len(pair) == 2 and pair.isprintable() and pair not in left:
                    return pair
    raise AssertionError("no sample has such a pair")


@pytest.mark.parametrize("size", [320, 300])
def test_stop_strings_across_tokens_and_chunks_cut_the_text_that_is_valued(size: int) -> None:
    """Guides of another vocabulary read the cut text; guides of the same one the sampled ids, as the value says."""
    base = language_model(0, ends=range(40, 46))
    stop = ["e", stop_across_tokens(base)]
    tuned, untuned = language_model(1, size=size), language_model(2, size=size)
    proposer = LanguageModelProposer(base, SAMPLING, SEED, stop=stop)
    found = CBS.run(PROMPTS, proposer, ImplicitValue(tuned, untuned, base))
    finishes = set()
    for prompt, group in zip(PROMPTS, found, strict=True):
        for each in group:
            finishes.add(each.finish)
            whole = response_text(base, prompt, each.token_ids)
            first = min((place for string in stop if (place := whole.find(string)) >= 0), default=None)
            assert (each.finish == "stop") == (first is not None)
            assert each.text == whole[:first]
            before = response_text(base, prompt, each.token_ids[:-1])
            assert not any(string in before for string in stop), "it went on after a stop string"
            ids = each.token_ids
            if size != 320:
                ids = tuned.vocabulary.encode_response(each.text)
                ids += [tuned.vocabulary.end_id] if each.finish == "eos" else []
            assert abs(each.value - log_ratio(tuned, untuned, prompt, ids)) < EXACT
    assert "stop" in finishes


def test_each_of_several_end_tokens_ends_and_stays_in_the_ids() -> None:
    ends = (41, 47, 52, 58, 60)
    base = language_model(0, ends=ends)
    found = Search(successors=64, max_new_tokens=20, keep=64).run(
        PROMPTS, LanguageModelProposer(base, SAMPLING, SEED), None
    )
    last = {each.token_ids[-1] for group in found for each in group if each.finish == "eos"}
    assert len(last & set(ends)) > 1
    for group in found:
        for each in group:
            assert not set(each.token_ids[:-1]) & base.vocabulary.eos_ids


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_decoding_is_that_of_transformers(penalty: float) -> None:
    base = language_model(0)
    settings = SamplingConfig(temperature=0, repetition_penalty=penalty)
    found: list[list[Hypothesis]] = Search(max_new_tokens=12).run(
        PROMPTS, LanguageModelProposer(base, settings, SEED), None
    )
    for prompt, (each,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([base.vocabulary.encode_prompt(prompt.text, "{prompt}")])
        wanted = base.model.generate(
            ids, max_new_tokens=12, do_sample=False, repetition_penalty=penalty, pad_token_id=0, eos_token_id=0
        )
        assert each.token_ids == wanted[0, ids.shape[1] :].tolist()
