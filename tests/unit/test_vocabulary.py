"""Prompts and responses keep their boundary, characters stay whole, and beginnings stand once."""

import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from tiny import language_model, tokenizer
from trimtab.errors import ModelError
from trimtab.models.encoding import common_prefix
from trimtab.models.vocabulary import Vocabulary
from trimtab.training.tokens import encode_texts


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


# what a tokenizer puts around each text that it encodes, as its own special tokens
AROUND = {
    "nothing": ([], []),
    "a start": (["<start>"], []),
    "an end": ([], ["<end>"]),
    "both": (["<start>"], ["<end>"]),
    "BERT's": (["<cls>"], ["<sep>"]),
    "two of each": (["<cls>", "<start>"], ["<sep>", "<end>"]),
}
TEMPLATES = {
    "plain": "{prompt}",
    "an end, as DialoGPT's": "{prompt}<end>",
    "several ends": "<end>{prompt}<end><end>",
    "a start, as Llama 2's": "<start>[INST] {prompt} [/INST]",
    "both": "<start>{prompt}<end>",
    "a separator": "{prompt}<sep>",
    "a class and a start": "<cls><start>{prompt}",
}


def surrounding(around: str) -> PreTrainedTokenizerFast:
    before, behind = AROUND[around]
    made = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    made.add_special_tokens(["<cls>", "<sep>"])
    names = [(name, made.token_to_id(name)) for name in {*before, *behind}]
    single = " ".join([*before, "$A", *behind])
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=names)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", bos_token="<start>")


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("prompt", ["A film?", "a", " ", "<end>", "film<end>", "<start>"])
def test_what_a_template_writes_is_read_and_only_what_the_tokenizer_appends_is_not(
    around: str, template: str, prompt: str
) -> None:
    """A start that both the template and the tokenizer put stands once; an end that the template writes stays."""
    made = surrounding(around)
    text, before = TEMPLATES[template].replace("{prompt}", prompt), AROUND[around][0]
    ids = made.encode(text, add_special_tokens=False)
    starts = made.convert_tokens_to_ids(before)
    wanted = ids if ids[: len(starts)] == starts else [*starts, *ids]
    assert Vocabulary(made).encode_prompt(prompt, TEMPLATES[template]) == wanted


@pytest.mark.parametrize("around", AROUND)
def test_texts_that_are_trained_on_begin_and_end_once(around: str) -> None:
    made = surrounding(around)
    start, end = made.convert_tokens_to_ids(["<start>", "<end>"])
    own = made.encode(" a film", add_special_tokens=False)
    for text in (" a film", "<start> a film", " a film<end>", "<start> a film<end><end>\n"):
        assert encode_texts([text], Vocabulary(made), 64)[0].input_ids == [start, *own, end]


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
