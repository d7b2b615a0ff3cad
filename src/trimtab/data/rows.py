"""Reads rows of named columns from files of all the usual kinds, folders of them, or standard input.

>>> read_rows_of(Path("prompts.jsonl"))[0].values                                   # doctest: +SKIP
{'instruction': 'Name a colour.'}
"""

import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trimtab.data.formats import LINE, SUFFIXES, kind_of, rows_of_file, rows_of_text
from trimtab.errors import DataError

__all__ = ["LINE", "STANDARD_INPUT", "NamedRow", "files_in", "read_rows_of", "standard_input", "standard_input_rows"]
STANDARD_INPUT = "-"
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
    return named_rows([place] if place.is_file() else _files(place, files))


def named_rows(paths: Iterable[Path]) -> list[NamedRow]:
    """All rows of these files, in their order.

    Raises:
        DataError: one of them cannot be read.
    """
    return [
        NamedRow(f"{path}, row {number}", values)
        for path in paths
        for number, values in enumerate(rows_of_file(path), start=1)
    ]


def standard_input_rows() -> list[NamedRow]:
    """The rows of standard input: JSON lines, a JSON list, or plain text with a prompt a line.

    Raises:
        DataError: it is a terminal, not UTF-8 or no JSON where it begins like it.
    """
    rows = rows_of_text(standard_input(), "standard input")
    return [NamedRow(f"standard input, row {number}", values) for number, values in enumerate(rows, start=1)]


@cache
def standard_input() -> str:
    """All of standard input as UTF-8 whatever the locale, which is read once.

    Raises:
        DataError: it is a terminal, or not UTF-8.
    """
    if sys.stdin.isatty():
        raise DataError("data.instructions is -, and standard input is a terminal: pipe instructions into the command")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict", newline="\n")
    try:
        return sys.stdin.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text (byte {error.start}): pipe UTF-8") from None


def files_in(folder: Path, pattern: str, kinds: Iterable[str]) -> list[Path]:
    """The files of a folder that fit the pattern and are of one of these kinds, in the order of their paths.

    Raises:
        DataError: it is no pattern.
    """
    try:
        found = [path for path in folder.glob(pattern) if kind_of(path) in kinds and path.is_file()]
    except (ValueError, NotImplementedError) as error:
        raise DataError(
            f"{pattern!r} is no pattern of files in {folder} ({error}): give one such as data/test-*"
        ) from None
    return sorted(path for path in found if path.name not in _DESCRIPTIONS)


def _files(folder: Path, pattern: str | None) -> list[Path]:
    # what `datasets` has computed before lies beside what it saved
    found = [
        path
        for path in files_in(folder, pattern or "**/*", SUFFIXES)
        if not (path.suffix == ".arrow" and path.name.startswith("cache-"))
    ]
    if not found:
        fits = f" that fits {pattern}" if pattern else ""
        raise DataError(f"{folder} holds no {', '.join(SUFFIXES)} file{fits}: give a file of instructions")
    return found
