"""Reward training on a tiny random BERT: it learns, repeats, saves an ordinary checkpoint, refuses what cannot be."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
)

from trimtab.assets.resolve import Assets
from trimtab.config.reward import RewardConfig, RewardTrainingConfig
from trimtab.errors import ConfigurationError, DataError, ModelError
from trimtab.records import Review
from trimtab.rewards.classifier import load_classifier_reward
from trimtab.training.job import TrainingJob
from trimtab.training.reward import train_reward, training_snippets

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "the", "film", "was", "a", "very", "and"]
TRAINING = RewardTrainingConfig(
    epochs=4,
    snippet_words=(3, 8),
    batch_size=8,
    learning_rate=5e-3,
    head_learning_rate=2e-2,
    frozen_layers=0,
)


def tokenizer() -> PreTrainedTokenizerFast:
    base = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    base.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=base, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a random encoder of two layers, without a classification head."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def reviews(count: int, seed: int) -> list[Review]:
    """Mostly neutral words; one in three speaks the label, and one in ten of those lies."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        label = number % 2
        honest, liar = ("bad", "good")[label], ("good", "bad")[label]
        words = rng.choice([honest, liar, *WORDS[6:]], size=20, p=[0.3, 0.04, *[0.11] * 6])
        made.append(Review(id=str(number), text=" ".join(words), label=label, split="train"))
    return made


def config(encoder, **changes) -> RewardConfig:
    return RewardConfig(model=str(encoder), max_length=64, training=TRAINING.model_copy(update=changes))


def train(encoder, folder, seed=0, **changes):
    folder.mkdir(exist_ok=True)
    steps = []
    assets = Assets(cache=folder / "cache")
    report = train_reward(
        reviews(64, 1),
        reviews(60, 2),
        config(encoder, **changes),
        assets,
        TrainingJob(folder, seed, lambda done, total: steps.append((done, total))),
    )
    return report, steps


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    report, steps = train(encoder, folder)
    return folder, report, steps


def test_it_learns_and_the_saved_folder_is_a_reward(encoder, trained, tmp_path):
    folder, report, _ = trained
    assert report["accuracy"] > 0.75 and report["accuracy_50_words"] > 0.85
    reward = load_classifier_reward(config(encoder), Assets(cache=tmp_path), folder)
    low, high = reward.score(["the film was", "the film was"], [" bad and bad", " good and good"])
    assert low < 0 < high


def test_calibration_is_baked_into_the_saved_weights(encoder, trained):
    # A sharp uncalibrated head would give another likelihood than the report says.
    folder, report, _ = trained
    assert report["negative_log_likelihood_after"] <= report["negative_log_likelihood_before"] + 0.02
    reward = load_classifier_reward(config(encoder), Assets(cache=folder / "cache"), folder)
    fresh, rng = reviews(400, 3), np.random.default_rng(0)
    texts = [" ".join(review.text.split()[: rng.integers(3, 9)]) for review in fresh]
    signs = np.array([2 * review.label - 1 for review in fresh])
    loss = np.logaddexp(0, -signs * np.array(reward.score(texts, [""] * len(texts)))).mean()
    assert loss == pytest.approx(report["negative_log_likelihood_after"], abs=0.12)


def test_saved_checkpoint_is_ordinary_and_names_its_labels(trained):
    folder, report, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert (folder / "model.safetensors").exists() and (folder / "tokenizer.json").exists()
    assert json.loads((folder / "report.json").read_text()) == report
    assert not list(folder.glob("checkpoint-*")) and not list(folder.rglob("*.bin"))


def test_progress_is_told_of_every_step(trained):
    _, report, steps = trained
    assert steps == [(done, 32) for done in range(1, 33)]
    assert report["steps"] == 32 and report["snippets"] == 256 and report["heldout"] == 60


def test_same_seed_gives_the_same_weights_and_report(encoder, trained, tmp_path):
    folder, report, _ = trained
    again, _ = train(encoder, tmp_path / "again")
    assert again == report
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_bfloat16_rounds_products_and_keeps_float32_weights(encoder, tmp_path):
    """The two ways of training end apart by rounding: near each other, and not the same."""
    ends = {}
    for dtype in ("float32", "bfloat16"):
        report, _ = train(encoder, tmp_path / dtype, dtype=dtype)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / dtype, dtype="auto")
        assert model.dtype == torch.float32 and report["accuracy"] > 0.75
        ends[dtype] = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    difference = (ends["bfloat16"] - ends["float32"]).norm() / ends["float32"].norm()
    assert 1e-6 < difference < 0.05


@pytest.mark.parametrize("pads", ["on the left", "with another token", "with nothing", "with a token beyond the rows"])
def test_how_the_tokenizer_pads_changes_no_weight(encoder, trained, tmp_path, pads):
    """The model says which token is padding, and it stands behind a text, in training as in judging."""
    shutil.copytree(encoder, tmp_path / "encoder")
    words = tokenizer()
    if pads == "on the left":
        words.padding_side = "left"
    elif pads == "with another token":
        words.pad_token = "film"
    elif pads == "with nothing":
        words.pad_token = None
    else:
        words.add_special_tokens({"pad_token": "<pad>"})
        assert words.pad_token_id == len(WORDS)
    words.save_pretrained(tmp_path / "encoder")
    train(tmp_path / "encoder", tmp_path / "again")
    first, again = (load_file(folder / "model.safetensors") for folder in (trained[0], tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_frozen_layers_and_embeddings_keep_their_weights(encoder, tmp_path):
    train(encoder, tmp_path / "frozen", frozen_layers=1, epochs=1)
    before = BertModel.from_pretrained(encoder).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "frozen").bert.state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith(("embeddings.", "encoder.layer.0."))}
    assert kept == frozen


def test_freezing_every_layer_is_refused(encoder, tmp_path):
    with pytest.raises(ModelError, match="frozen_layers is 2 of 2"):
        train(encoder, tmp_path / "all", frozen_layers=2)


def test_freezing_layers_of_another_kind_of_encoder_is_refused(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(tmp_path / "distil")
    tokenizer().save_pretrained(tmp_path / "distil")
    with pytest.raises(ModelError, match=r"distilbert model has no encoder\.layer"):
        train(tmp_path / "distil", tmp_path / "out", frozen_layers=1)
    report, _ = train(tmp_path / "distil", tmp_path / "out", frozen_layers=0, epochs=1)
    assert report["steps"] == 8


def test_each_epoch_cuts_new_snippets_and_reads_every_review_once():
    made = [Review(str(number), " ".join(["good"] * (number + 1)), number % 2, "train") for number in range(10)]
    whole = TRAINING.model_copy(update={"epochs": 2, "snippet_words": (99, 99), "batch_size": 4})
    rows = training_snippets(made, tokenizer(), whole, 200, np.random.default_rng(0))
    lengths = [len(row["input_ids"]) - 2 for row in rows]
    assert sorted(lengths) == sorted([*range(1, 11)] * 2)
    assert all(row["labels"] == (length - 1) % 2 for row, length in zip(rows, lengths, strict=True))
    batches = [lengths[start : start + 4] for start in range(0, 20, 4)]
    assert all(max(batch) - min(batch) <= 2 for batch in batches)

    text = " ".join(np.random.default_rng(5).choice(WORDS[4:], size=60))
    one = [Review("0", text, 1, "train"), Review("1", text, 0, "train")]
    short = TRAINING.model_copy(update={"epochs": 5, "snippet_words": (6, 6)})
    drawn = training_snippets(one, tokenizer(), short, 64, np.random.default_rng(0))
    assert len({tuple(row["input_ids"]) for row in drawn}) > 5


def test_reviews_of_one_label_are_refused(encoder, tmp_path):
    with pytest.raises(DataError, match="30 held-out reviews lack a label"):
        train_reward(
            reviews(64, 1), reviews(60, 2)[::2], config(encoder), Assets(cache=tmp_path), TrainingJob(tmp_path)
        )


@pytest.mark.parametrize("words", [(0, 5), (9, 5)])
def test_snippet_lengths_out_of_order_are_refused(words):
    with pytest.raises(ConfigurationError, match="the smaller first"):
        RewardTrainingConfig(snippet_words=words)


def test_configuration_without_training_is_refused(encoder, tmp_path):
    ready = RewardConfig(model=str(encoder))
    with pytest.raises(ConfigurationError, match=r"reward\.training is not set"):
        train_reward(reviews(4, 1), reviews(4, 2), ready, Assets(cache=tmp_path), TrainingJob(tmp_path))
