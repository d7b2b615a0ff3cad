"""Reads labelled rows from CSV, JSON-lines and Parquet files, or folders of them.

rows = read_rows(Path("reviews.csv"))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.data.formats import class_names, kind_of
from trimtab.data.rows import NamedRow, files_in, named_rows
from trimtab.errors import DataError, shown
from trimtab.messages import is_missing, text_of

_KINDS = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled text and what its file says of it; `label` and `split` are empty where nothing is said.

    `origin` says where the row stands, for messages, rows counted from 1.
    """

    text: str
    label: str
    split: str
    origin: str


def read_rows(place: Path) -> list[Row]:
    """All rows of a file, or of a folder's files in the order of their names.

    The columns are `review` or `text`, `sentiment` or `label`, and perhaps `split`. Where files of a folder say train
    or test in their names, those alone are read.

    Raises:
        DataError: no such file, or one that cannot be read or lacks a column; a text or label is something else.
    """
    return [
        _labelled(row, split, names)
        for path, split in _files(place)
        for names in (class_names(path),)
        for row in named_rows([path])
    ]


def read_table(path: Path) -> pd.DataFrame:
    """A file as trimtab reads it, to look at before a run: a row for each record, each cell as it is written.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    return pd.DataFrame([row.values for row in named_rows([path])], dtype=object)


def _files(place: Path) -> list[tuple[Path, str]]:
    if place.is_file():
        if kind_of(place) not in _KINDS:
            raise DataError(
                f"{place} is neither CSV, JSON lines nor Parquet: give one that ends in {', '.join(_KINDS)}"
            )
        return [(place, "")]
    paths = files_in(place, "**/*", _KINDS)
    if not paths:
        raise DataError(f"{place} holds no {', '.join(_KINDS)} file: give a file of reviews")
    named = [(path, half) for path in paths for half in ("train", "test") if half in path.stem.lower()]
    return named or [(path, "") for path in paths]


def _labelled(row: NamedRow, split: str, names: Mapping[str, Sequence[str]]) -> Row:
    """The row; `names` are those of numbered labels by their columns, which count where they are words."""
    text, label = _cell(row, ("review", "text")), _cell(row, ("sentiment", "label"))
    known = next((names[name] for name in ("sentiment", "label") if name in row.values and name in names), ())
    if isinstance(label, int) and 0 <= label < len(known) and not known[label].strip().isdecimal():
        label = known[label]
    own = row.values.get("split", split)
    return Row(
        "" if is_missing(text) else text_of(text, f"{row.origin}: the text"),
        _spelled(label, row),
        _spelled(own, row),
        row.origin,
    )


def _spelled(value: object, row: NamedRow) -> str:
    """A label or split as text, numbers and booleans among them; an empty one is empty."""
    if not isinstance(value, str | int | float | None):
        raise DataError(f"{row.origin} holds {shown(value)} where one text belongs: mend the row")
    return "" if is_missing(value) else str(value)


def _cell(row: NamedRow, names: tuple[str, ...]) -> Any:
    found = [name for name in names if name in row.values]
    if not found:
        there = ", ".join(row.values) or "none"
        raise DataError(f"{row.origin} has no column {' or '.join(names)} (its columns: {there}): rename one")
    return row.values[found[0]]
