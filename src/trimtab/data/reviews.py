"""Labelled reviews, and their split into what trains the reward, what tunes the model and what tests it.

No review plays two parts, and no text stands in both halves.

    reviews = load_reviews(Assets(), "imdb")
    split = split_reviews(reviews, DataConfig(), seed=0)
"""

import hashlib
import html
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.assets.resolve import Assets
from trimtab.config.data import DataConfig
from trimtab.data.formats import rows_of_file
from trimtab.data.tables import Row, read_rows
from trimtab.errors import DataError
from trimtab.records import Prompt, Review

Split = Literal["train", "test"]

# With the spellings that a table gives to whole numbers in a column of floats.
_POSITIVE = ("positive", "pos", "1", "1.0", "true")
_NEGATIVE = ("negative", "neg", "0", "0.0", "false")
_LABELS = {**dict.fromkeys(_POSITIVE, 1), **dict.fromkeys(_NEGATIVE, 0)}
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^\s<>]*\s*/?>")
# Reviews that were read as Latin-1 hold Windows' dashes, quotes and dots as control characters.
_CONTROL = re.compile("[\x80-\x9f]")
_WINDOWS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
_NEITHER_LETTER_NOR_DIGIT = (string.punctuation + string.whitespace).encode()


@dataclass(frozen=True)
class DataSplit:
    """Who plays which part. `test` prompts are cut from the test half, everything else comes from the train half.

    `sft_train` and `sft_heldout` are empty where the small model is not trained on reviews.
    """

    reward_train: list[Review]
    reward_heldout: list[Review]
    judge_train: list[Review]
    tuning: list[Prompt]
    validation: list[Prompt]
    test: list[Prompt]
    sft_train: list[Review]
    sft_heldout: list[Review]


def load_reviews(assets: Assets, name: str) -> list[Review]:
    """All distinct reviews of a data set, as plain text, each in one half; ids depend on the text alone.

    The catalogue's IMDB gets its official halves. Other sets say the half in a column `split` or in their files'
    names; where they say nothing, a fixed hash of the text decides. Texts that differ in case, spacing or punctuation
    alone count as one: one that stands in both halves belongs to the train half, one with two labels to neither.

    Raises:
        AssetError: the name resolves to nothing.
        DataError: a file cannot be read, or a row has no text, label or half that could be meant.
    """
    place = assets.dataset(name)
    rows = read_rows(place)
    entry = assets.entry_of(place)
    train_keys = _official_train_keys(assets) if entry is not None and entry.name == "imdb" else frozenset()
    texts: dict[str, str] = {}
    labels: dict[str, set[int]] = {}
    splits: dict[str, set[Split]] = {}
    for row in rows:
        text = clean(row.text)
        key = _key(text)
        if not key:
            raise DataError(f"{row.origin} has no text: fill it or drop the row")
        texts.setdefault(key, text)
        labels.setdefault(key, set()).add(_label(row))
        splits.setdefault(key, set()).add(_half(row, key, train_keys))
    reviews = [
        Review(_digest(key)[:16], text, min(labels[key]), "train" if "train" in splits[key] else "test")
        for key, text in texts.items()
        if len(labels[key]) == 1
    ]
    if not reviews:
        raise DataError(f"{place} holds no reviews: give a file with the columns review and sentiment")
    return reviews


def clean(text: str) -> str:
    """Plain text on one line: no markup, no character references, single spaces."""
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub(" ", text))
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii() and _CONTROL.search(text):
        text = text.translate(_WINDOWS)
    return " ".join(text.split())


def split_reviews(reviews: Sequence[Review], config: DataConfig, seed: int) -> DataSplit:
    """Draw who plays which part; it depends on the seed and the set of reviews alone.

    Asking for more of a part leaves what it had in place, first to last.

    Raises:
        DataError: a half holds fewer reviews than the parts ask for.
    """
    lots = _Lots(reviews, config, seed)
    # Prompts first, so that the sizes of the training sets have no say in them.
    return DataSplit(
        validation=lots.prompts("validation", "train", config.validation_prompts),
        tuning=lots.prompts("tuning", "train", config.tuning_prompts),
        reward_heldout=lots.reviews("reward_heldout", "train", config.reward_heldout),
        reward_train=lots.reviews("reward_reviews", "train", config.reward_reviews),
        judge_train=lots.reviews("judge_reviews", "train", config.judge_reviews),
        test=lots.prompts("test", "test", config.test_prompts),
        # after all others, so that none of them draws differently for it
        sft_heldout=lots.reviews("sft_heldout", "train", config.sft_heldout if config.sft_reviews else 0),
        sft_train=lots.reviews("sft_reviews", "train", config.sft_reviews),
    )


class _Lots:
    """Reviews of which each can be drawn once. Every part ranks them by random numbers of its own."""

    def __init__(self, reviews: Sequence[Review], config: DataConfig, seed: int) -> None:
        self._reviews, self._words, self._seed = reviews, config.prompt_words, seed
        self._taken: set[str] = set()

    def prompts(self, part: str, half: Split, count: int) -> list[Prompt]:
        """The first words of `count` reviews that go on after the longest prompt; their number is drawn evenly."""
        low, high = self._words
        prompts = []
        for number, review in enumerate(self.reviews(f"{part}_prompts", half, count, longer_than=high)):
            words = low + self._number("words", review) % (high - low + 1)
            text = " ".join(review.text.split(maxsplit=words)[:words])
            prompts.append(Prompt(f"{part}-{number:05d}", text, source=review.id))
        return prompts

    def reviews(self, field: str, half: Split, count: int, longer_than: int = 0) -> list[Review]:
        """`count` reviews of more than `longer_than` words; `field` is what the configuration calls the count."""
        free = [
            review
            for review in self._reviews
            if review.split == half and review.id not in self._taken and review.text.count(" ") >= longer_than
        ]
        if count > len(free):
            whole = sum(review.split == half for review in self._reviews)
            raise DataError(
                f"data.{field} asks for {count} reviews, but of the {whole} in the {half} half only {len(free)} are "
                f"left that can serve: lower data.{field}"
            )
        chosen = sorted(free, key=lambda review: self._number(field, review))[:count]
        self._taken.update(review.id for review in chosen)
        return chosen

    def _number(self, purpose: str, review: Review) -> int:
        """64 random bits that belong to a review, a purpose and a seed."""
        return int(_digest(f"{self._seed} {purpose} {review.id}")[:16], 16)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(text: str) -> str:
    """What two copies of one review share: its letters and digits, of whatever case."""
    # As bytes, which are ten times as fast to thin out as a string.
    return text.lower().encode().translate(None, _NEITHER_LETTER_NOR_DIGIT).decode() or text


def _official_train_keys(assets: Assets) -> frozenset[str]:
    """Keys of the reviews of IMDB's official train half."""
    rows = rows_of_file(assets.catalogued("imdb-train-half") / "train-half.csv")
    return frozenset(_key(clean(row["text"])) for row in rows if row["source"] == "imdb")


def _half(row: Row, key: str, train_keys: frozenset[str]) -> Split:
    if train_keys:
        return "train" if key in train_keys else "test"
    if row.split == "":
        return "train" if int(_digest(key)[:8], 16) % 2 == 0 else "test"
    if row.split not in ("train", "test"):
        raise DataError(f"{row.origin} has split {row.split!r}: write train or test, or drop the column")
    return "train" if row.split == "train" else "test"


def _label(row: Row) -> int:
    label = _LABELS.get(row.label.strip().lower())
    if label is None:
        raise DataError(f"{row.origin} has label {row.label!r}: write positive or negative, or 1 or 0")
    return label
