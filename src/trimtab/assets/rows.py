"""Reads the rows of data files, of standard input or of tables, with every text as it is written.

No types are guessed: JSON, Parquet and Arrow keep the types in the file. A cell of a CSV is a text, or None where it is
empty. A line ends at a line feed, with or without a carriage return before it; other characters that break lines on a
screen, such as U+2028 or a form feed, belong to the line's text.

    >>> list(values_in_text('{"prompt": "Name a tree."}', "a.jsonl"))
    [{'prompt': 'Name a tree.'}]
"""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.assets.tables import Values, values_in_arrow
from trimtab.errors import DataError, shown

if TYPE_CHECKING:
    import pandas as pd

LINE_COLUMN = "prompt"
"""The column that plain text is read into, a row for each line."""
STANDARD_INPUT = "-"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_BINARY = (".parquet", ".arrow")
_SEPARATORS = {".csv": (",", "commas"), ".tsv": ("\t", "tabs")}
_OTHER_SEPARATOR = re.compile(r"[;|\t]")
_NO_SPACE = re.compile(r"\S")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row with its `origin`, its file and number (counted from 1) for messages."""

    origin: str
    values: Values

    @property
    def columns(self) -> str:
        """The names of the row's columns, for messages."""
        one = len(self.values) == 1 and _OTHER_SEPARATOR.search("".join(self.values))
        return (", ".join(self.values) or "none") + (", one name: put commas between the cells" if one else "")

    def column(self, names: Iterable[str]) -> str | None:
        """The first of these names that is a column of the row."""
        return next((name for name in names if name in self.values), None)


@dataclass
class Sample:
    """Of each file only the first `rows` rows are read; `cut` says whether that left any."""

    rows: int
    cut: bool = False


def read_rows(paths: Iterable[Path], sample: Sample | None = None) -> list[NamedRow]:
    """All rows of these files, in order; with a `sample`, the first rows of each.

    Raises:
        DataError: a file cannot be read, is not UTF-8, holds a malformed row, or is of no known kind.
    """
    rows = []
    for path in paths:
        values = _values_in_file(path, None if sample is None else sample.rows + 1)
        if sample is not None and len(values) > sample.rows:
            values, sample.cut = values[: sample.rows], True
        rows += named(values, str(path))
    return rows


def read_table(path: Path) -> "pd.DataFrame":
    """A data file as trimtab reads it, for a look at it before a run: a row for each record, cells without conversion.

    Raises:
        DataError: the file cannot be read.
    """
    import pandas as pd  # late: it takes a while

    return pd.DataFrame(_values_in_file(path), dtype=object)


def standard_input_rows() -> list[NamedRow]:
    """The rows of standard input: JSON lines, a JSON list, or plain text with a prompt on each line.

    Raises:
        DataError: it is a terminal, not UTF-8, or begins like JSON and is not valid JSON.
    """
    return named(values_in_text(standard_input(), "standard input"), "standard input")


@cache
def standard_input() -> str:
    """All of standard input as UTF-8, under any locale. It is read once and remembered.

    Raises:
        DataError: it is a terminal, or not UTF-8.
    """
    if sys.stdin.isatty():
        raise DataError("data.instructions is -, and standard input is a terminal: pipe instructions into the command")
    return _decoded(sys.stdin.buffer.read(), "standard input", "pipe UTF-8")


def named(rows: Iterable[Values], origin: str) -> list[NamedRow]:
    """The rows with their numbers."""
    return [NamedRow(f"{origin}, row {number}", values) for number, values in enumerate(rows, start=1)]


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without the `.gz` of a compressed text file; empty for unknown kinds.

    >>> kind_of(Path("train.jsonl.gz")), kind_of(Path("train.PARQUET")), kind_of(Path("train.parquet.gz"))
    ('.jsonl', '.parquet', '')
    """
    *_, inner, suffix = "", "", *(suffix.lower().replace(".ndjson", ".jsonl") for suffix in path.suffixes)
    if suffix == ".gz":
        return inner if inner in SUFFIXES and inner not in _BINARY else ""
    return suffix if suffix in SUFFIXES else ""


def files_in(folder: Path, kinds: Sequence[str], content: str, pattern: str | None = None) -> list[Path]:
    """The data files below a folder, sorted by path, without descriptions and caches that `datasets` writes;
    where `folder` is a file, that file alone.

    Args:
        kinds: the suffixes that are read, as `kind_of` gives them.
        content: what the files should hold, for the message where there are none.
        pattern: a glob pattern relative to the folder; None for all files at any depth.

    Raises:
        DataError: no file matches, or `pattern` is not a valid pattern.
    """
    if folder.is_file():
        return [folder]
    try:
        paths = [path for path in folder.glob(pattern or "**/*") if kind_of(path) in kinds and path.is_file()]
    except (ValueError, NotImplementedError) as error:
        raise DataError(
            f"{pattern!r} is not a valid pattern of files in {folder} ({error}): give one such as data/test-*"
        ) from None
    cached = {path for path in paths if path.suffix == ".arrow" and path.name.startswith("cache-")}
    files = sorted(path for path in paths if path.name not in _DESCRIPTIONS and path not in cached)
    if not files:
        matching = f" that fits {pattern}" if pattern else ""
        raise DataError(f"{folder} holds no {', '.join(kinds)} file{matching}: give a file of {content}")
    return files


def _values_in_file(path: Path, most: int | None = None) -> list[Values]:
    """The first `most` rows of a file; all where that is None."""
    kind = kind_of(path)
    if not kind:
        raise DataError(f"{path} is of no known kind: give a file that ends in {', '.join(SUFFIXES)}")
    if kind in _BINARY:
        return values_in_arrow(path)[:most]
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:  # a gzip.BadGzipFile is an OSError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path} cannot be read ({reason}): mend it, or save it anew") from None
    text = _decoded(content, str(path), "save it as UTF-8")
    if kind in _SEPARATORS:
        return _values_in_csv(text, str(path), *_SEPARATORS[kind], most)
    return list(islice(values_in_text(text, str(path), plain=kind == ".txt"), most))


def _decoded(content: bytes, origin: str, remedy: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin} is not UTF-8 text (byte {error.start}): {remedy}") from None


def values_in_text(text: str, origin: str, *, plain: bool | None = None) -> Iterator[Values]:
    """The rows of JSON objects, in one list or one after the other; or of plain lines.

    Args:
        plain: whether the text is plain lines; None: it is JSON if it begins with `[` or `{`.

    Raises:
        DataError: the text is not valid JSON, or holds other values than objects.
    """
    first = text.lstrip()[:1]
    if plain or (plain is None and first not in ("[", "{")):
        lines = (line.strip(" \t\r") for line in text.split("\n"))
        yield from ({LINE_COLUMN: line} for line in lines if line.strip())
        return
    begin, end, line = 0, 0, 1
    while start := _NO_SPACE.search(text, end):
        line += text.count("\n", begin, start.start())
        begin, position = start.start(), f"{origin}, line {line}"
        value, end = _parsed(text, begin, position)
        for entry in value if first == "[" and isinstance(value, list) else [value]:
            if not isinstance(entry, dict):
                raise DataError(f"{position} holds {shown(entry)}, which is not a JSON object: give columns by name")
            yield entry


def _parsed(text: str, begin: int, position: str) -> tuple[Any, int]:
    """The JSON value that begins at the index `begin`, and the index where it ends; `position` is for messages."""
    try:
        return json.JSONDecoder(object_pairs_hook=_object).raw_decode(text, begin)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}" if "\n" in text[begin : error.pos].strip() else error.msg
    except RecursionError:
        reason = "too deeply nested"
    except ValueError as error:  # a key given twice, a number of too many digits
        reason = str(error)
    raise DataError(f"{position} is not JSON ({reason}): mend or drop it")


def _object(pairs: list[tuple[str, Any]]) -> Values:
    if repeated := _repeated(name for name, _ in pairs):
        raise ValueError(f"{repeated[0]!r} is given twice")
    return dict(pairs)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _values_in_csv(text: str, origin: str, separator: str, separators: str, most: int | None) -> list[Values]:
    """The rows below the header; empty lines are no rows."""
    limit = csv.field_size_limit(sys.maxsize)
    lines = csv.reader(io.StringIO(text, newline="\n"), strict=True, delimiter=separator)
    rows = []
    try:
        header = next(filter(None, lines), [])
        if not header:
            raise DataError(
                f"{origin} cannot be read (it is empty): give a header with the names of the columns, and rows"
            )
        if repeated := _repeated(filter(None, header)):
            raise DataError(f"{origin} has two columns {repeated[0]}: rename one of them")
        for cells in islice(filter(None, lines), most):
            if len(cells) != len(header):
                if len(header) == 1 and _OTHER_SEPARATOR.search(header[0]):
                    raise DataError(f"{origin} has one column, {header[0]}: put {separators} between the cells")
                raise DataError(
                    f"{origin}, line {lines.line_num} has {len(cells)} cells and the header {len(header)}: put cells "
                    f"with {separators} in quotation marks, or mend the row"
                )
            # a column without a name is an index that some program wrote
            rows.append({name: cell or None for name, cell in zip(header, cells, strict=True) if name})
    except csv.Error as error:
        raise DataError(
            f"{origin} cannot be read at line {lines.line_num} ({error}): put cells with quotes, {separators} or line "
            "breaks in quotation marks, and double the quotes in them"
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows
