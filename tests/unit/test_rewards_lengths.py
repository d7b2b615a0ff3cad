"""Texts that are longer than a reward model reads: special tokens stay, the beginning goes, a warning says so once."""

import logging

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tiny_classifiers import ENCODERS, ROWS, alone, classifier, scores, words
from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig
from trimtab.errors import ModelError
from trimtab.rewards.load import load_reward
from trimtab.rewards.sequence_logits import positions_of, reading
from trimtab.rewards.token_rows import TokenRows

LONG = "This was the worst film that I have ever seen, awful plot! " * 8


def framed(before=("<start>",), behind=("<end>",)):
    """A tokenizer that puts special tokens around a text, as BERT's does."""
    made = words()
    frame = " ".join([*before, "$A", *behind])
    made.backend_tokenizer.post_processor = TemplateProcessing(frame, None, [("<start>", 1), ("<end>", 0)])
    return made


FRAMES = [((), ()), (("<start>",), ()), ((), ("<end>",)), (("<start>",), ("<end>",)), ((), ("<end>", "<start>"))]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("before", "behind"), FRAMES)
def test_special_tokens_stay_and_the_beginning_goes(before, behind, side):
    tokens = framed(before, behind)
    tokens.truncation_side = side
    whole = tokens.encode(LONG)
    for most in (8, 20, len(whole) - 1, len(whole), len(whole) + 5):
        (row,) = TokenRows(tokens, max_length=most, vocabulary=ROWS).fitted([whole])
        assert len(row) == min(most, len(whole))
        assert row[: len(before)] == whole[: len(before)]
        kept = len(row) - len(before)
        assert row[len(before) :] == whole[len(whole) - kept :]
    assert tokens.truncation_side == side


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta", "distilbert"])
def test_a_long_text_scores_as_what_is_left_of_it(family, labels):
    model, tokens = classifier(family, labels, pad_token_id=2), framed()
    whole = tokens.encode(LONG)
    left = [whole[0], *whole[len(whole) - 47 :]]
    expected = float(alone(model, left)[labels // 2])
    assert scores(model, tokens, [LONG, "I", LONG[11:]], 64)[0] == pytest.approx(expected, abs=1e-4)


def test_it_is_said_once(caplog):
    rows = TokenRows(framed(), max_length=8, vocabulary=ROWS)
    with caplog.at_level(logging.WARNING):
        rows.fitted([[2] * 8])
        assert not caplog.records
        rows.fitted([[2] * 9, [2] * 10])
        rows.fitted([[2] * 9])
    assert [record.getMessage() for record in caplog.records] == [
        "a text has 9 tokens and the reward model reads 8: it loses its beginning, as do others that are too long"
    ]


def test_no_warning_is_of_our_own_texts(caplog):
    with caplog.at_level(logging.WARNING):
        reading(classifier("llama"), framed(), 8)
    assert not caplog.records


@pytest.mark.parametrize("pad", [0, 1, 3, -1])
@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_every_position_that_is_counted_can_be_read(family, pad):
    """RoBERTa counts positions from its padding token's id on."""
    model = classifier(family, 2, pad_token_id=pad)
    most = positions_of(model)
    assert most == 64 - (pad + 1 if family == "roberta" else 0)
    alone(model, [2] * most if pad != 2 else [4] * most)
    with pytest.raises((IndexError, RuntimeError)):
        alone(model, [5] * (most + 1))


def test_mpnet_counts_from_its_own_padding():
    model = classifier("mpnet", 2)
    alone(model, [5] * positions_of(model))


@pytest.mark.parametrize("definition", ["margin", "scalar"])
@pytest.mark.parametrize("family", [*ENCODERS, "gpt2", "llama"])
def test_a_length_that_was_not_asked_for_is_no_more_than_the_model_reads(tmp_path, family, definition):
    """The default, 256 or 2048 tokens, is more than the 64 positions of these."""
    sizes = {} if family == "xlnet" else {"max_position_embeddings": 64}
    model = classifier(family, 1 if definition == "scalar" else 2, pad_token_id=2, **sizes)
    model.save_pretrained(tmp_path / "judge")
    framed().save_pretrained(tmp_path / "judge")
    config = RewardConfig(model=str(tmp_path / "judge"), definition=definition)
    (score,) = load_reward(config, Assets(cache=tmp_path / "cache"), None).score([LONG], [" n"])
    assert torch.isfinite(torch.tensor(score))


def test_a_token_without_an_embedding_is_refused_where_it_is_used():
    """An added token that no text holds does no harm."""
    tokens = words()
    tokens.add_tokens(["<think>"])
    model = classifier("llama", 2)
    assert len(scores(model, tokens, ["I really"], 4)) == 1
    with pytest.raises(ModelError, match=r"embeddings for 320 tokens, and its tokenizer gives token 320 \(<think>\)"):
        scores(model, tokens, ["I really", "so <think> is"], 4)
