"""Labelled reviews, and their split into what trains the reward, what tunes the model and what tests it.

No review is used in two parts, and no text is in both halves.
"""

import hashlib
import html
import re
import string
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from trimtab.assets.resolve import Assets
from trimtab.assets.rows import NamedRow, Sample, files_in, kind_of, read_rows
from trimtab.assets.tables import class_names
from trimtab.config.data import DataConfig
from trimtab.errors import DataError, shown
from trimtab.messages import is_missing, text_of
from trimtab.records import Prompt, Review

Split = Literal["train", "test"]

_KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
_TEXT, _LABEL = ("review", "text"), ("sentiment", "label")  # names of columns
# 1.0 and 0.0 are how a table spells whole numbers in a column of floats
_LABELS = {
    **dict.fromkeys(("positive", "pos", "1", "1.0", "true"), 1),
    **dict.fromkeys(("negative", "neg", "0", "0.0", "false"), 0),
}
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^\s<>]*\s*/?>")
# Reviews that were read as Latin-1 hold Windows' dashes, quotes and dots as control characters.
_CONTROL = re.compile("[\x80-\x9f]")
_WINDOWS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
_NEITHER_LETTER_NOR_DIGIT = (string.punctuation + string.whitespace).encode()


def load_reviews(assets: Assets, name: str, sample: Sample | None = None) -> list[Review]:
    """All distinct reviews of a data set, as plain text, each in one half; ids depend on the text alone.

    The columns are `review` or `text`, `sentiment` or `label`, and perhaps `split`. The catalogue's IMDB gets its
    official halves. Other sets say the half in `split` or in their files' names; where they do not, a fixed hash of
    the text decides. Texts that differ in case, spacing or punctuation alone count as one: one that stands in both
    halves belongs to the train half, one with two labels to neither. With a `sample` only the first rows of each file
    are read, to find faults in them; the catalogue's IMDB then gets other halves.

    Raises:
        AssetError: the name resolves to nothing.
        DataError: a file cannot be read, or a row has no text, label or half that could be meant.
    """
    folder = assets.dataset(name)
    entry = assets.entry_of(folder)
    official = entry is not None and entry.name == "imdb" and sample is None
    train_keys = _official_train_keys(assets) if official else frozenset()
    texts: dict[str, str] = {}
    labels: defaultdict[str, set[int]] = defaultdict(set)
    halves: defaultdict[str, set[Split]] = defaultdict(set)
    for path, half in _files(folder):
        names = class_names(path)
        for row in read_rows([path], sample):
            text = _text(row)
            key = _key(text)
            texts.setdefault(key, text)
            labels[key].add(_label(row, names))
            halves[key].add(_half(row, half, key, train_keys))
    reviews = [
        Review(_digest(key)[:16], text, min(labels[key]), "train" if "train" in halves[key] else "test")
        for key, text in texts.items()
        if len(labels[key]) == 1
    ]
    if not reviews:
        raise DataError(f"{folder} holds no reviews: give a file with the columns review and sentiment")
    return reviews


def clean(text: str) -> str:
    """Plain text on one line: no markup, no character references, single spaces.

    >>> clean("Tom &amp; Jerry.<br />Very   <i>good</i>.")
    'Tom & Jerry. Very good.'
    """
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub(" ", text))
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii() and _CONTROL.search(text):
        text = text.translate(_WINDOWS)
    return " ".join(text.split())


def split_reviews(reviews: Sequence[Review], config: DataConfig, seed: int) -> dict[str, list[Review] | list[Prompt]]:
    """Draw the reviews or prompts of each part; they depend on the seed and the set of reviews alone.

    `test` prompts are cut from the test half, all other parts come from the train half. Every part takes the reviews in
    its own random order, so that a part that is made larger begins with the same reviews as before.

    Raises:
        DataError: a half holds fewer reviews than the parts ask for.
    """
    used: set[str] = set()
    low, high = config.prompt_words

    def number(purpose: str, review: Review) -> int:
        """A 64-bit random number that depends on the seed, the purpose and the review alone."""
        return int(_digest(f"{seed} {purpose} {review.id}")[:16], 16)

    def draw(field: str, count: int, half: Split = "train", longer_than: int = 0) -> list[Review]:
        """`count` unused reviews of more than `longer_than` words; `field` is the count's name in the configuration."""
        inside = [review for review in reviews if review.split == half]
        free = [review for review in inside if review.id not in used and review.text.count(" ") >= longer_than]
        if count > len(free):
            raise DataError(
                f"data.{field} asks for {count} reviews, but of the {len(inside)} in the {half} half only {len(free)} "
                f"are unused and long enough: lower data.{field}"
            )
        chosen = sorted(free, key=lambda review: number(field, review))[:count]
        used.update(review.id for review in chosen)
        return chosen

    def prompts(part: str, count: int, half: Split = "train") -> list[Prompt]:
        """The beginnings of `count` reviews as prompts, each of `low` to `high` words, all lengths equally likely.

        Only reviews of more than `high` words are used; `half` is the half of the data set that they come from.
        """
        result = []
        for index, review in enumerate(draw(f"{part}_prompts", count, half, longer_than=high)):
            words = low + number("words", review) % (high - low + 1)
            text = " ".join(review.text.split(maxsplit=words)[:words])
            result.append(Prompt(f"{part}-{index:05d}", text, source=review.id))
        return result

    # The order matters: sizes of the training sets do not change the prompts, and sft does not change any other part.
    return {
        "validation": prompts("validation", config.validation_prompts),
        "tuning": prompts("tuning", config.tuning_prompts),
        "reward_heldout": draw("reward_heldout", config.reward_heldout),
        "reward_train": draw("reward_reviews", config.reward_reviews),
        "judge_train": draw("judge_reviews", config.judge_reviews),
        "test": prompts("test", config.test_prompts, "test"),
        "sft_heldout": draw("sft_heldout", config.sft_heldout if config.sft_reviews else 0),
        "sft_train": draw("sft_reviews", config.sft_reviews),
    }


def _files(path: Path) -> list[tuple[Path, str]]:
    """The files of reviews, each with the half that its name contains, or "". Where some names of a folder contain one,
    only those files are read."""
    if path.is_file():
        if kind_of(path) not in _KINDS:
            raise DataError(f"{path} is neither CSV, JSON lines nor Parquet: give one that ends in {', '.join(_KINDS)}")
        return [(path, "")]
    paths = files_in(path, _KINDS, "reviews")
    with_half = [(path, half) for path in paths for half in ("train", "test") if half in path.stem.lower()]
    return with_half or [(path, "") for path in paths]


def _official_train_keys(assets: Assets) -> frozenset[str]:
    """Keys of the reviews of IMDB's official train half."""
    rows = [row.values for row in read_rows([assets.catalogued("imdb-train-half") / "train-half.csv"])]
    return frozenset(_key(clean(row["text"])) for row in rows if row["source"] == "imdb")


def _key(text: str) -> str:
    """The letters and digits of a review in lower case, by which copies of one review are recognised."""
    # bytes: removing characters from them is ten times as fast as from a string
    return text.lower().encode().translate(None, _NEITHER_LETTER_NOR_DIGIT).decode() or text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _text(row: NamedRow) -> str:
    cell = row.values[_column(row, _TEXT)]
    text = "" if is_missing(cell) else clean(text_of(cell, f"{row.origin}: the text"))
    if not text:
        raise DataError(f"{row.origin} has no text: fill it or drop the row")
    return text


def _label(row: NamedRow, class_names: dict[str, list[str]]) -> int:
    """The label of a row, 1 or 0. A class number stands for the class name, unless that is a number itself."""
    column = _column(row, _LABEL)
    cell, names = row.values[column], class_names.get(column, [])
    if isinstance(cell, int) and 0 <= cell < len(names) and not names[cell].strip().isdecimal():
        cell = names[cell]
    spelled = _spelled(cell, row)
    label = _LABELS.get(spelled.strip().lower())
    if label is None:
        raise DataError(f"{row.origin} has label {spelled!r}: write positive or negative, or 1 or 0")
    return label


def _half(row: NamedRow, of_file: str, key: str, train_keys: frozenset[str]) -> Split:
    if train_keys:
        return "train" if key in train_keys else "test"
    half = _spelled(row.values.get("split", of_file), row)
    if half == "":
        return "train" if int(_digest(key)[:8], 16) % 2 == 0 else "test"
    if half not in ("train", "test"):
        raise DataError(f"{row.origin} has split {half!r}: write train or test, or drop the column")
    return "train" if half == "train" else "test"


def _spelled(cell: Any, row: NamedRow) -> str:
    """A label or split as text; numbers and booleans are spelled out, a missing one is empty."""
    if not isinstance(cell, str | int | float | None):
        raise DataError(f"{row.origin} holds {shown(cell)} where one text belongs: mend the row")
    return "" if is_missing(cell) else str(cell)


def _column(row: NamedRow, names: tuple[str, ...]) -> str:
    column = row.column(names)
    if column is None:
        raise DataError(f"{row.origin} has no column {' or '.join(names)} (its columns: {row.columns}): rename one")
    return column
