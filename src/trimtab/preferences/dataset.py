"""Pairs as a `datasets` folder, and any preference data set as pairs.

Written is the schema of ZHZisZZ/imdb_preference (`prompt`, `responses`, `chosen`; splits train, validation, test)
with our own columns beside it, as parquet files that `datasets.load_dataset(folder)` reads. Read are that schema and
the common `prompt`, `chosen`, `rejected`, of texts or of messages, from a hub layout, a `save_to_disk` folder, or
parquet, JSON or CSV files named after their splits. Of messages `chosen` and `rejected` may also be whole
conversations, with the prompt in them. A data set that has only text gives pairs without ids.

    >>> write_dataset(pairs, Path("pairs"))                                             # doctest: +SKIP
    >>> read_dataset(Path("pairs")) == pairs                                            # doctest: +SKIP
    True
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from trimtab.data.rows import NamedRow
from trimtab.errors import DataError, RunError
from trimtab.preferences.rows import Split, pair_of
from trimtab.preferences.splits import splits_of
from trimtab.records import Pair

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SCHEMAS = (("prompt", "responses", "chosen"), ("prompt", "chosen", "rejected"), ("chosen", "rejected"))


def write_dataset(pairs: Sequence[Pair], folder: Path) -> None:
    """Write `folder/data/<split>-00000-of-00001.parquet` for each split that `pairs` have.

    Raises:
        DataError: there is no pair, or some prompts are strings and others messages.
        RunError: the file system refuses.
    """
    if not pairs:
        raise DataError("there are no pairs to write")
    if len({isinstance(pair.prompt, str) for pair in pairs}) > 1:
        raise DataError("some prompts are strings and others lists of messages: write them as two data sets")
    fields = {name: None for pair in pairs if not isinstance(pair.prompt, str) for each in pair.prompt for name in each}
    features = _features(tuple(fields))
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            rows = [_row(pair, fields) for pair in pairs if pair.split == split]
            if rows:
                table = datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features)
                with _quiet():
                    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None


def read_dataset(folder: Path, *, ended: bool = False) -> list[Pair]:
    """The pairs of a data set with the splits train and validation, and test if it has one, in this order.

    What a data set does not say is left unknown: without our columns a pair has no ids (`token_ids` and `prompt_ids`
    are empty), no `rewards`, and a `probability` of 0.5. Where it has no column `ended`, `ended` says whether its
    responses are whole texts, so that an end token may be learned; sampled continuations are not, and messages are.

    Raises:
        DataError: the folder holds no readable data set, lacks a split or a column, or has a row that is no pair.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the folder of a preference data set")
    with _quiet():
        splits = splits_of(folder)
    missing = [name for name in ("train", "validation") if name not in splits]
    if missing:
        raise DataError(
            f"{folder} has the splits {', '.join(map(repr, splits))} and lacks {' and '.join(map(repr, missing))}: "
            "add it, for instance with datasets.Dataset.train_test_split"
        )
    pairs = []
    for split in SPLITS:
        if split in splits:
            pairs += _pairs(splits[split](), split, f"{folder}, split {split}", ended)
    return pairs


def _row(pair: Pair, fields: Iterable[str]) -> dict[str, Any]:
    row = dataclasses.asdict(pair)
    if not isinstance(pair.prompt, str):
        row["prompt"] = [{name: message.get(name) for name in fields} for message in pair.prompt]
    return row


def _features(fields: Sequence[str]) -> datasets.Features:
    """The types of the columns; `fields` are those that messages have, none where prompts are texts."""
    message = {name: datasets.Json() if name == "tool_calls" else datasets.Value("string") for name in fields}
    ids = datasets.List(datasets.Value("int64"))
    return datasets.Features(
        {
            "prompt": datasets.List(message) if fields else datasets.Value("string"),
            "responses": datasets.List(datasets.Value("string")),
            "chosen": datasets.Value("int64"),
            "prompt_id": datasets.Value("string"),
            "rewards": datasets.List(datasets.Value("float64")),
            "probability": datasets.Value("float64"),
            "prompt_ids": ids,
            "token_ids": datasets.List(ids),
            "ended": datasets.List(datasets.Value("bool")),
        }
    )


def _pairs(rows: Sequence[NamedRow], split: Split, place: str, ended: bool) -> list[Pair]:
    if not rows:
        raise DataError(f"{place} has no rows: give at least one pair")
    columns = {name for row in rows for name in row.values}
    if not any(columns.issuperset(names) for names in SCHEMAS):
        wanted = " or ".join(f"({', '.join(names)})" for names in SCHEMAS)
        raise DataError(f"{place} has the columns {', '.join(sorted(columns))}: it needs {wanted}")
    return [pair_of(row, split, f"{split}-{number:05d}", ended) for number, row in enumerate(rows)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets` inside."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
