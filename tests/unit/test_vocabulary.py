"""Prompts and responses keep their boundary, characters stay whole, and beginnings stand once."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tiny import language_model, tokenizer
from trimtab.errors import ModelError
from trimtab.models.vocabulary import Vocabulary
from trimtab.search.retokenize import common_prefix


def test_clean_up_does_not_move_the_boundary() -> None:
    """Fault of the original: decoding clean-up (" ," -> ",") moves the boundary between prompt and response."""
    tidy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend_tokenizer, eos_token="<end>", clean_up_tokenization_spaces=True
    )
    vocabulary = Vocabulary(tidy)
    prompt = vocabulary.encode_prompt("Good , I said .", "{prompt}")
    assert vocabulary.decode_response(prompt, vocabulary.encode_response(" , but n't")) == " , but n't"


def test_an_unfinished_character_is_held_back() -> None:
    """Fault of the original: a chunk can end inside a multi-byte character."""
    vocabulary = Vocabulary(tokenizer())
    ids = vocabulary.encode_response(" ok 🦊!")
    texts = [vocabulary.decode_response([], ids[:count]) for count in range(len(ids) + 1)]
    assert texts[-1] == " ok 🦊!" and all("\ufffd" not in text for text in texts)
    assert all(" ok 🦊!".startswith(text) for text in texts)
    assert len(ids) > len(set(texts))  # the fox is several tokens, and no part of it shows


def test_an_empty_prompt_begins_with_the_start_token() -> None:
    assert Vocabulary(tokenizer()).encode_prompt("", "{prompt}") == [1]
    assert Vocabulary(tokenizer(), start_token="<end>").encode_prompt("", "{prompt}") == [0]
    with pytest.raises(ModelError, match="name a single token"):
        Vocabulary(tokenizer(), start_token="a film").encode_prompt("", "{prompt}")


def test_the_template_holds_the_prompt_as_it_is() -> None:
    vocabulary = Vocabulary(tokenizer())
    assert vocabulary.encode_prompt("a {b}", "Review: {prompt}") == vocabulary.encode_response("Review: a {b}")


def test_fingerprints_tell_vocabularies_apart() -> None:
    assert Vocabulary(tokenizer()).fingerprint == Vocabulary(tokenizer()).fingerprint
    assert Vocabulary(tokenizer()).fingerprint != Vocabulary(tokenizer(300)).fingerprint


def test_common_prefix() -> None:
    assert [common_prefix(*pair) for pair in (([], [1]), ([1, 2], [1, 2]), ([1, 2, 3], [1, 4, 3]))] == [0, 2, 1]


def test_a_prompt_beyond_the_context_is_named() -> None:
    model = language_model(0)
    with pytest.raises(ModelError, match=r"exceed .* context of 256: shorten the prompt or lower max_new_tokens"):
        model.start(["a film " * 300], room=10)


def test_states_fork_cut_and_grow_without_a_trace() -> None:
    """Rows of unlike lengths are forked, cut back and continued beyond the cache's first size: as if read anew."""
    model = language_model(0)
    state = model.start(["I really", "This was the worst film"], room=1)
    lengths = [len(ids) for ids in state.ids]
    state, _ = model.score(state, [1, 0, 1], [lengths[1], lengths[0], lengths[1]], [[5, 6, 7, 8], [9], [4] * 30])
    state, _ = model.score(state, [2, 0], [lengths[1] + 2, lengths[1] + 1], [[3], [11, 12]])
    found = model.next_logits(state)
    for row, ids in enumerate(state.ids):
        with torch.no_grad():
            assert (model.model(input_ids=torch.tensor([ids])).logits[0, -1] - found[row]).abs().max() < 1e-9
