"""A reward model gives a text the number that transformers gives for it alone, whatever stands beside it in a batch."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_classifiers import BOTH, DECODERS, ENCODERS, ROWS, alone, classifier, scores, words
from trimtab.rewards.classifier import classifier_reward
from trimtab.rewards.sequence_logits import SequenceLogits, reading

TEXTS = [
    "I",
    "I really liked this movie",
    "a",
    "This was the worst film that I have ever seen, awful plot!",
    "the story",
]
ENDED = [*TEXTS, "I really liked<end>", "<end>", "the story<start><end><end>"]
PADS = [None, -1, 0, 2, ROWS, ROWS + 5]
"""What a configuration says pads: nothing, no token, the end token, another one, tokens without an embedding."""


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_configurations_padding_token_moves_no_score(family: str, pad: int | None, labels: int) -> None:
    """Also of texts that hold that token, or end in it, and whatever the tokenizer pads with, on whichever side."""
    model = classifier(family, labels, **({"pad_token_id": pad} if pad is None or pad < ROWS else {}))
    model.config.pad_token_id = pad
    before = model.config.to_dict()
    for side, token in itertools.product(["left", "right"], [None, "<end>", "<start>", "a", "[PAD]"]):
        tokens = words(padding_side=side)
        if token == "[PAD]":
            tokens.add_special_tokens({"pad_token": "[PAD]"})
        else:
            tokens.pad_token = token
        expected = [float(alone(model, tokens.encode(text))[labels // 2]) for text in ENDED]
        for batch in (1, 3, 64):
            assert scores(model, tokens, ENDED, batch) == pytest.approx(expected, abs=1e-4)
    assert model.config.to_dict() == before


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS, *BOTH])
def test_neighbours_move_no_score_in_any_family(family: str, labels: int) -> None:
    model, tokens = classifier(family, labels), words(ends=family in BOTH, padding_side="left", pad_token=None)
    expected = [float(alone(model, tokens.encode(text))[labels // 2]) for text in ENDED]
    assert len({round(each, 3) for each in expected}) > len(TEXTS) - 1, "the model tells texts apart"
    for batch in (1, 2, 64):
        assert scores(model, tokens, ENDED, batch) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("family", "padded"), [("llama", True), ("bert", True), ("fnet", False), ("xlnet", False)])
def test_only_families_that_read_padding_lose_their_large_batches(family: str, padded: bool) -> None:
    _, logits = reading(classifier(family), words(), 48)
    assert logits._pads is padded


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("pad", [None, -1, 0, 9])
def test_rows_that_use_every_token_are_read_as_alone(pad: int | None, rows: list[list[int]]) -> None:
    """A vocabulary of ten, so that no token may be left that could pad."""
    model = classifier("llama", 2, vocab_size=10, pad_token_id=None)
    model.config.pad_token_id = pad
    logits = SequenceLogits(model, [[1, 2], [1, 2, 3, 4, 5]])
    together = logits(rows)
    for row, got in zip(rows, together, strict=True):
        torch.testing.assert_close(got, alone(model, row), atol=1e-4, rtol=0)


def test_two_rewards_share_a_model_whose_configuration_stays() -> None:
    model = classifier("llama", 2, pad_token_id=None)
    first, second = (
        classifier_reward(model, words(), definition="margin", positive_label=label, max_length=48, batch_size=4)
        for label in (0, 1)
    )
    given_texts = (TEXTS, [""] * len(TEXTS))
    assert first.score(*given_texts) == pytest.approx([-each for each in second.score(*given_texts)], abs=1e-5)
    assert model.config.pad_token_id is None


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_in_bfloat16_neighbours_move_a_score_by_rounding(family: str) -> None:
    model = classifier(family, 1).to(torch.bfloat16)
    tokens = words(pad_token=None)
    expected = [float(alone(model, tokens.encode(text))[0]) for text in TEXTS]
    assert scores(model, tokens, TEXTS, 64) == pytest.approx(expected, abs=0.1, rel=0.05)
