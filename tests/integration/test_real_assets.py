"""The catalogue's real models and data: downloaded once, converted once, and what they are said to be."""

from pathlib import Path

import pytest
import torch

from trimtab.assets.catalog import CATALOG
from trimtab.assets.resolve import Assets
from trimtab.config.data import DataConfig
from trimtab.config.models import ModelConfig
from trimtab.data.reviews import load_reviews, split_reviews
from trimtab.models.load import load_causal_lm, load_classifier

pytestmark = pytest.mark.real

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
GEMMA = "google/gemma-3-270m"
TEXTS = [
    "Hello world",
    " leading space",
    "  two",
    "a\nb\n\n c\t d",
    "New line\n",
    "emoji 🙂👩‍👩‍👧 ü 漢字",
    "isn't it . , 're n't 12345",
    "",
]


@pytest.fixture(scope="module")
def assets() -> Assets:
    return Assets()


@pytest.mark.parametrize(
    ("name", "ends", "starts", "nll"),
    # The nats a token are this text's under the original bfloat16 weights' quantized copies; well above 4 when broken.
    [(SMOLLM2, [2, 0], 0, 2.02), (GEMMA, [1, 106], 1, 1.36)],
)
def test_language_models_are_right(assets: Assets, name: str, ends: list[int], starts: int, nll: float) -> None:
    model, tokenizer = load_causal_lm(ModelConfig(name=name, dtype="float32"), assets)
    assert model.generation_config.eos_token_id == ends
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
        assert tokenizer(text).input_ids.count(tokenizer.bos_token_id) == starts
    text = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
    with torch.inference_mode():
        assert model(ids, labels=ids).loss.item() == pytest.approx(nll, abs=0.02)


def test_the_encoder_becomes_a_classifier(assets: Assets) -> None:
    model, tokenizer = load_classifier(
        "sentence-transformers/all-MiniLM-L6-v2", assets, allow_pickle=False, num_labels=2
    )
    batch = tokenizer(["a good film", "bad"], return_tensors="pt", padding=True).to(model.device)
    assert model(**batch).logits.shape == (2, 2)
    assert batch.input_ids[1].tolist() == [101, 2919, 102, 0, 0]


def test_imdb_has_its_official_halves(assets: Assets) -> None:
    """IMDB has 25,000 reviews a half; 99 of the train half and 326 others are copies of another review."""
    reviews = load_reviews(assets, "imdb")
    counts = {(half, label): 0 for half in ("train", "test") for label in (0, 1)}
    for review in reviews:
        counts[review.split, review.label] += 1
    assert counts == {("train", 0): 12431, ("train", 1): 12470, ("test", 0): 12263, ("test", 1): 12411}
    assert not [review.id for review in reviews if "<br" in review.text or "&amp;" in review.text]
    split = split_reviews(reviews, DataConfig(), seed=0)
    for part in ("reward_train", "reward_heldout", "judge_train"):
        assert 0.45 < sum(review.label for review in split[part]) / len(split[part]) < 0.55


def test_everything_now_lies_in_the_cache(assets: Assets) -> None:
    for entry in CATALOG.values():
        assets.catalogued(entry.name)
    places = [assets.present(entry) for entry in CATALOG.values()]
    assert all(isinstance(place, Path) and place.is_dir() for place in places)
