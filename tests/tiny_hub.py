"""Folders of tiny random models, reviews and pairs, and the path map that gives them the names of real ones."""

from pathlib import Path
from typing import Literal

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from chat_styles import chat_tokenizer
from tiny import gpt2, llama, tokenizer
from trimtab.preferences.dataset import write_dataset
from trimtab.records import Pair

SPLITS: dict[Literal["train", "validation", "test"], int] = {"train": 24, "validation": 8, "test": 8}
GOOD, BAD = ["wonderful", "great", "liked", "good"], ["worst", "awful", "terrible", "bad"]


def save_causal_lm(folder: Path, model: PreTrainedModel, size: int = 320) -> Path:
    model.float().save_pretrained(folder)
    tokenizer(size).save_pretrained(folder)
    return folder


def save_chat_model(folder: Path, seed: int = 3) -> Path:
    """A random Llama whose tokenizer has a chat template."""
    llama(seed, 340).float().save_pretrained(folder)
    chat_tokenizer("chatml").save_pretrained(folder)
    return folder


def save_classifier(folder: Path) -> Path:
    """A random DistilBERT with a word-level vocabulary of the reviews' words."""
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *GOOD, *BAD, "this", "film", "is", "a"])}
    base = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(words), dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=128,
        id2label={0: "NEGATIVE", 1: "POSITIVE"}, label2id={"NEGATIVE": 0, "POSITIVE": 1}, initializer_range=0.5,
    )  # fmt: skip
    DistilBertForSequenceClassification(config).eval().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=base, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    """A random BERT of two layers with the same vocabulary, to be trained into a reward."""
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *GOOD, *BAD, "this", "film", "is", "a"])}
    base = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=base, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def save_reviews(file: Path, count: int = 240) -> Path:
    """As many different reviews, half of them positive, half of them of the test half."""
    rows = ["review,sentiment,split"]
    for number in range(count):
        label = number % 2
        word = (GOOD if label else BAD)[number // 2 % 4]
        split = "train" if number % 4 < 2 else "test"
        text = f"This film number {number} is a {word} one and the story of it is {word} and I would see it again"
        rows.append(f"{text},{'positive' if label else 'negative'},{split}")
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def save_preferences(folder: Path) -> Path:
    """Pairs of texts in the schema of imdb_preference, of three splits."""
    pairs = [
        Pair(
            prompt_id=f"{split}-{number}",
            prompt=f"Film {number}",
            responses=[" is great", " is awful"],
            chosen=number % 2,
            rewards=[],
            probability=0.5,
            prompt_ids=[],
            token_ids=[],
            ended=[False, False],
            split=split,
        )
        for split, count in SPLITS.items()
        for number in range(count)
    ]
    write_dataset(pairs, folder)
    return folder


def tiny_hub(folder: Path) -> Path:
    """The path map of everything that the shipped experiments name."""
    small, other = save_causal_lm(folder / "gpt2", gpt2(1)), save_causal_lm(folder / "gpt2-xl", gpt2(2))
    places = {
        "lvwerra/gpt2-imdb": small,
        "openai-community/gpt2-xl": other,
        "lvwerra/distilbert-imdb": save_classifier(folder / "distilbert"),
        "sentence-transformers/all-MiniLM-L6-v2": save_encoder(folder / "encoder"),
        "ZHZisZZ/imdb_preference": save_preferences(folder / "pairs"),
        "imdb": save_reviews(folder / "reviews.csv"),
        "HuggingFaceTB/SmolLM2-135M-Instruct": save_causal_lm(folder / "smol", llama(3)),
        "google/gemma-3-270m": save_causal_lm(folder / "gemma", llama(4, 300), 300),
    }
    path_map = folder / "paths.yaml"
    path_map.write_text(yaml.safe_dump({name: str(place) for name, place in places.items()}), encoding="utf-8")
    return path_map
