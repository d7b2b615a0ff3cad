"""Pairs as a `datasets` folder, and any preference data set as pairs.

`write_dataset` writes the schema of ZHZisZZ/imdb_preference (`prompt`, `responses`, `chosen`; splits train, validation,
test) with further columns of ours, as Parquet files that `datasets.load_dataset(folder)` reads. `read_dataset` reads
that schema and the common `prompt`, `chosen`, `rejected`, which are texts, messages, or whole conversations, from a hub
layout, a `save_to_disk` folder, or Parquet, JSON or CSV files named after their splits.

`datasets` only says which files make a split, by their names, their folders or the README's settings. It reads no JSON
or CSV, since it guesses types and makes timestamps of texts that look like dates.
"""

import dataclasses
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import yaml

from trimtab.assets.rows import NamedRow, Sample, named, read_rows
from trimtab.assets.tables import values_in_table
from trimtab.errors import DataError, RunError
from trimtab.models.quiet import quiet_datasets
from trimtab.preferences.rows import pair_of
from trimtab.records import Pair, PromptInput, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SCHEMAS = (("prompt", "responses", "chosen"), ("prompt", "chosen", "rejected"), ("chosen", "rejected"))
ROWS_AT_ONCE = 1000


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
    kind, prompts = prompt_column([pair.prompt for pair in pairs])
    features = _features(kind)
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            rows = [
                {**dataclasses.asdict(pair), "prompt": prompt}
                for pair, prompt in zip(pairs, prompts, strict=True)
                if pair.split == split
            ]
            if rows:
                table = datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features)
                with quiet_datasets():
                    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None


def read_dataset(folder: Path, *, ended: bool = False, sample: Sample | None = None) -> list[Pair]:
    """The pairs of a data set with the splits train and validation, and test if it has one, in this order. A `sample`
    reads the first rows of each file, or of each saved split.

    Without our columns a pair has no ids (`token_ids` and `prompt_ids` are empty), no `rewards`, and a `probability`
    of 0.5. Where there is no column `ended`, the argument says whether responses are whole texts, so that an end token
    may be learned; sampled continuations are not, and messages are.

    Raises:
        DataError: the folder holds no readable data set, lacks a split or a column, or has a row that is no pair.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the folder of a preference data set")
    with quiet_datasets():
        splits = _splits(folder)
    missing = [name for name in ("train", "validation") if name not in splits]
    if missing:
        raise DataError(
            f"{folder} has the splits {', '.join(map(repr, splits))} and lacks {' and '.join(map(repr, missing))}: "
            "add it, for instance with datasets.Dataset.train_test_split"
        )
    pairs = []
    for split in SPLITS:
        if split in splits:
            origin = f"{folder}, split {split}"
            rows = _rows(splits[split], origin, sample)
            columns = {name for row in rows for name in row.values}
            if not rows:
                raise DataError(f"{origin} has no rows: give at least one pair")
            if not any(columns.issuperset(names) for names in SCHEMAS):
                needed = " or ".join(f"({', '.join(names)})" for names in SCHEMAS)
                raise DataError(f"{origin} has the columns {', '.join(sorted(columns))}: it needs {needed}")
            pairs += [pair_of(row, split, f"{split}-{number:05d}", ended) for number, row in enumerate(rows)]
    return pairs


def prompt_column(prompts: Sequence[PromptInput]) -> tuple[Any, list[Any]]:
    """The type of a column of prompts, which are all texts or all conversations, and its values: each message has all
    the fields that any message has, None where it has no such field."""
    text = datasets.Value("string")
    conversations = [prompt for prompt in prompts if not isinstance(prompt, str)]
    if not conversations:
        return text, list(prompts)
    fields = {name: None for messages in conversations for message in messages for name in message}
    kind = datasets.List({name: datasets.Json() if name == "tool_calls" else text for name in fields})
    return kind, [[{name: message.get(name) for name in fields} for message in messages] for messages in conversations]


def _features(prompt: Any) -> datasets.Features:
    """The types of the columns; `prompt` is that of prompts."""
    text, ids = datasets.Value("string"), datasets.List(datasets.Value("int64"))
    return datasets.Features(
        {
            "prompt": prompt,
            "responses": datasets.List(text),
            "chosen": datasets.Value("int64"),
            "prompt_id": text,
            "rewards": datasets.List(datasets.Value("float64")),
            "probability": datasets.Value("float64"),
            "prompt_ids": ids,
            "token_ids": datasets.List(ids),
            "ended": datasets.List(datasets.Value("bool")),
        }
    )


def _splits(folder: Path) -> Mapping[str, datasets.Dataset | list[Path]]:
    """Each split's saved table or files, by its name."""
    try:
        if (folder / "dataset_dict.json").exists():
            return {str(name): table for name, table in datasets.DatasetDict.load_from_disk(folder).items()}
        if (folder / "state.json").exists():
            table = datasets.Dataset.load_from_disk(folder)
            return {str(table.split or "unnamed"): table}
        return _split_files(folder)
    except (
        OSError, ValueError, RuntimeError, StopIteration, zipfile.BadZipFile, yaml.YAMLError,
        datasets.exceptions.DatasetsError,
    ) as error:  # fmt: skip
        cause = str(error.__cause__ or error).split("\n")[0] or "a file is empty"
        if isinstance(error, yaml.YAMLError):
            cause = f"the settings in its README.md are no YAML: {cause}"
        raise DataError(
            f"{folder} cannot be read as a data set ({cause}): give Parquet, JSON or CSV files in UTF-8, named after "
            "their splits"
        ) from None


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, as `datasets` finds them."""
    with tempfile.TemporaryDirectory() as temporary:
        mirror = Path(temporary).resolve() / "set"  # a path without brackets, which datasets takes for a pattern
        mirror.mkdir()
        for path in folder.rglob("*"):
            if path.is_file():
                link = mirror / path.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        try:
            builder = datasets.load_dataset_builder(str(mirror), cache_dir=str(Path(temporary) / "cache"))
        except FileNotFoundError as error:  # its text names the mirror
            raise ValueError(str(error).replace(str(mirror), "the folder")) from None
        return {
            str(name): [folder / Path(path).relative_to(mirror) for path in paths]
            for name, paths in (builder.config.data_files or {}).items()
        }


def _rows(source: datasets.Dataset | list[Path], origin: str, sample: Sample | None) -> list[NamedRow]:
    """The rows of files, or of a saved table (in Python values, even if another format was set for it)."""
    if isinstance(source, list):
        return read_rows(source, sample)
    if sample is not None and len(source) > sample.rows:
        source, sample.cut = source.select(range(sample.rows)), True
    batches = source.with_format("arrow").iter(ROWS_AT_ONCE)
    return named((row for batch in batches for row in values_in_table(batch)), origin)
