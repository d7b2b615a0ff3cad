"""Reads rows of named columns from files of all the usual kinds, folders of them, or standard input.

Knows nothing of the columns' meaning.

    >>> read_rows_of(Path("prompts.jsonl"))[0].values                                   # doctest: +SKIP
    {'instruction': 'Name a colour.'}
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from trimtab.data.tables import read_table
from trimtab.errors import DataError

STANDARD_INPUT = "-"
LINE = "prompt"
"""The column of plain text, a row a line."""
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".txt")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True, slots=True)
class NamedRow:
    """The cells of a row by their columns; `origin` says where it stands, for messages, rows counted from 1."""

    origin: str
    values: dict[str, Any]


def read_rows_of(place: Path, files: str | None = None) -> list[NamedRow]:
    """All rows of a file, or of the files of a folder that fit the pattern `files`, in the order of their paths.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    paths = [place] if place.is_file() else _files(place, files)
    return [
        NamedRow(f"{path}, row {number}", values)
        for path in paths
        for number, values in enumerate(_rows_of(path), start=1)
    ]


def standard_input_rows() -> list[NamedRow]:
    """The rows of standard input: JSON lines, a JSON list, or plain text with a prompt a line.

    Raises:
        DataError: it is a terminal, not UTF-8 or no JSON where it begins like it.
    """
    rows = _of_text(standard_input(), "standard input")
    return [NamedRow(f"standard input, row {number}", values) for number, values in enumerate(rows, start=1)]


@cache
def standard_input() -> str:
    """All of standard input, which is read once.

    Raises:
        DataError: it is a terminal, or not UTF-8.
    """
    if sys.stdin.isatty():
        raise DataError("data.instructions is -, and standard input is a terminal: pipe instructions into the command")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text (byte {error.start}): pipe UTF-8") from None


def _files(folder: Path, pattern: str | None) -> list[Path]:
    found = sorted(
        path
        for path in folder.glob(pattern or "**/*")
        if path.is_file() and path.suffix.lower() in SUFFIXES and path.name not in _DESCRIPTIONS
    )
    # what `datasets` has computed before lies beside what it saved
    found = [path for path in found if not (path.suffix == ".arrow" and path.name.startswith("cache-"))]
    if not found:
        fits = f" that fits {pattern}" if pattern else ""
        raise DataError(f"{folder} holds no {', '.join(SUFFIXES)} file{fits}: give a file of instructions")
    return found


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        yield from ({str(name): cell for name, cell in row.items()} for row in read_table(path).to_dict("records"))
    elif suffix in (".parquet", ".arrow"):
        yield from _of_arrow(path)
    elif suffix in SUFFIXES:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
        yield from _of_text(text, str(path), plain=suffix == ".txt")
    else:
        raise DataError(f"{path} is of no known kind: give a file that ends in {', '.join(SUFFIXES)}")


def _of_arrow(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            with pyarrow.memory_map(str(path)) as source:
                table = pyarrow.ipc.open_stream(source).read_all()
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path} cannot be read ({reason}): mend it, or save it anew") from None
    yield from table.to_pylist()


def _of_text(text: str, origin: str, *, plain: bool | None = None) -> Iterator[dict[str, Any]]:
    """Rows of JSON, all in one list or one a line; or plain lines (None: told by the first character)."""
    begin = text.lstrip()[:1]
    if plain or (plain is None and begin not in ("{", "[")):
        yield from ({LINE: line.strip()} for line in text.splitlines() if line.strip())
        return
    if begin == "[":
        yield from _objects(_parsed(text, origin), origin)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield from _objects([_parsed(line, f"{origin}, line {number}")], f"{origin}, line {number}")


def _parsed(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{origin} is not JSON ({error.msg}): mend or drop it") from None


def _objects(entries: Sequence[Any], origin: str) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{origin} holds {str(entry)[:60]!r}, which is no JSON object: give columns by name")
        yield entry
