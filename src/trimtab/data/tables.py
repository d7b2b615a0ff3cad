"""Reads labelled rows from CSV, JSON-lines and Parquet files, or folders of them.

Knows nothing of halves' meaning or of duplicates.

    rows = read_rows(Path("reviews.csv"))
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import pandas

from trimtab.errors import DataError

_SUFFIXES = (".csv", ".jsonl", ".parquet")
PLAIN = (str, int, float, numpy.generic)


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled text as its file spells it; `split` is empty where neither column nor file name says it."""

    text: str
    label: str
    split: str
    file: Path
    number: int

    @property
    def origin(self) -> str:
        """Where the row stands, for messages; rows count from 1."""
        return f"{self.file}, row {self.number}"


def read_rows(place: Path) -> list[Row]:
    """All rows of a file, or of a folder's files in the order of their names.

    The columns are `review` or `text`, `sentiment` or `label`, and perhaps `split`. Where files of a folder say train
    or test in their names, those alone are read.

    Raises:
        DataError: no such file, or one that cannot be read or lacks a column.
    """
    return [row for path, split in _files(place) for row in _rows_of(path, split)]


def _files(place: Path) -> list[tuple[Path, str]]:
    if place.is_file():
        return [(place, "")]
    paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{place} holds no {', '.join(_SUFFIXES)} file: give a file of reviews")
    named = [(path, half) for path in paths for half in ("train", "test") if half in path.stem.lower()]
    return named or [(path, "") for path in paths]


def _rows_of(path: Path, split: str) -> Iterator[Row]:
    table = read_table(path)
    text = _column(table, ("review", "text"), path)
    label = _column(table, ("sentiment", "label"), path)
    splits = table["split"] if "split" in table.columns else [split] * len(table)
    for number, cells in enumerate(zip(table[text], table[label], splits, strict=True), start=1):
        wrong = [cell for cell in cells if cell is not None and not isinstance(cell, PLAIN)]
        if wrong:
            raise DataError(f"{path}, row {number} holds {str(wrong[0])[:60]!r} where one text belongs: mend the row")
        yield Row(_spelled(cells[0]), _spelled(cells[1]), _spelled(cells[2]), path, number)


def _spelled(value: object) -> str:
    """A cell as text; an empty one, which is None or a NaN that equals nothing, is empty."""
    return "" if value is None or value != value else str(value)


def _column(table: pandas.DataFrame, names: tuple[str, ...], path: Path) -> str:
    found = [name for name in names if name in table.columns]
    if not found:
        there = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"{path} has no column {' or '.join(names)} (its columns: {there}): rename one")
    return found[0]


def read_table(path: Path) -> pandas.DataFrame:
    """A CSV, JSON-lines or Parquet file as a table; CSV cells are text, none of them is taken for a missing value.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or is of another kind.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            return pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if suffix == ".jsonl":
            return _read_jsonl(path)
        if suffix == ".parquet":
            return pandas.read_parquet(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path} cannot be read ({reason}): mend it, or save it anew") from None
    raise DataError(f"{path} is neither CSV, JSON lines nor Parquet: give one that ends in {', '.join(_SUFFIXES)}")


def _read_jsonl(path: Path) -> pandas.DataFrame:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number} is not JSON ({error.msg}): mend or drop the line") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number} is not a JSON object: write one a line, with text and label")
            rows.append(row)
    return pandas.DataFrame(rows, dtype=object)
