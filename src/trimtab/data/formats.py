"""The rows of one file, of whatever kind: texts stay as they are written, and nothing guesses types.

JSON is read by its own types and Parquet and Arrow by theirs. A cell of a CSV or TSV is a text, an empty one is None,
and a list of messages that it holds as JSON is such a list, since a CSV has no other way to hold one.

A record ends at a line feed alone (or at a carriage return and a line feed): other characters that break lines on a
screen, such as U+2028 or a form feed, belong to its text.

    >>> list(rows_of_text('{"prompt": "Name a tree."}', "a.jsonl"))
    [{'prompt': 'Name a tree.'}]
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from trimtab.errors import DataError, shown

LINE = "prompt"
"""The column of plain text, a row a line."""
TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
PACKED = ".gz"
_SAME = {".ndjson": ".jsonl"}
_SEPARATORS = {".csv": (",", "commas"), ".tsv": ("\t", "tabs")}


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without the `.gz` of a packed text; empty where it is of no known kind.

    >>> kind_of(Path("train.jsonl.gz")), kind_of(Path("train.PARQUET")), kind_of(Path("train.parquet.gz"))
    ('.jsonl', '.parquet', '')
    """
    suffix = _SAME.get(path.suffix.lower(), path.suffix.lower())
    if suffix == PACKED:
        inner = Path(path.stem).suffix.lower()
        inner = _SAME.get(inner, inner)
        return inner if inner in TEXTS else ""
    return suffix if suffix in SUFFIXES else ""


def rows_of_file(path: Path) -> list[dict[str, Any]]:
    """All rows of a file.

    Raises:
        DataError: it cannot be read, is not UTF-8, holds a malformed row, or is of no known kind.
    """
    kind = kind_of(path)
    if not kind:
        raise DataError(f"{path} is of no known kind: give a file that ends in {', '.join(SUFFIXES)}")
    if kind not in TEXTS:
        return _rows_of_arrow(path)
    text = decoded(_content(path), str(path))
    if kind in _SEPARATORS:
        return _rows_of_csv(text, str(path), *_SEPARATORS[kind])
    return list(rows_of_text(text, str(path), plain=kind == ".txt"))


def decoded(content: bytes, origin: str) -> str:
    """UTF-8 as text, without a byte-order mark.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def rows_of_text(text: str, origin: str, *, plain: bool | None = None) -> Iterator[dict[str, Any]]:
    """Rows of JSON, all in one list or one a line; or plain lines (None: told by the first character).

    Raises:
        DataError: what should be JSON is none, or no object.
    """
    begin = text.lstrip()[:1]
    if plain or (plain is None and begin not in ("{", "[")):
        lines = (line.strip(" \t\r") for line in text.split("\n"))
        yield from ({LINE: line} for line in lines if line.strip())
    elif begin == "[" or _spans_lines(text.lstrip()):
        given = _parsed(text, origin)
        yield from _objects(given if isinstance(given, list) else [given], origin)
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield from _objects([_parsed(line, f"{origin}, line {number}")], f"{origin}, line {number}")


def _spans_lines(text: str) -> bool:
    """Whether the first object of a text goes on after its first line, as in an indented document."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):  # the message is about the whole document where it looks like one
        end = 0
    return "\n" in text[:end] or text.partition("\n")[0].strip() == "{"


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == PACKED else content
    except (OSError, EOFError, zlib.error) as error:  # a gzip.BadGzipFile is an OSError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path} cannot be read ({reason}): mend it, or save it anew") from None


def _rows_of_csv(text: str, origin: str, separator: str, named: str) -> list[dict[str, Any]]:
    before = csv.field_size_limit(sys.maxsize)
    lines = csv.reader(io.StringIO(text, newline="\n"), strict=True, delimiter=separator)
    try:
        return list(_records(lines, origin, named))
    except csv.Error as error:
        raise DataError(
            f"{origin} cannot be read at line {lines.line_num} ({error}): put cells with quotes, {named} or line "
            "breaks in quotation marks, and double the quotes in them"
        ) from None
    finally:
        csv.field_size_limit(before)


def _records(lines: Any, origin: str, separators: str) -> Iterator[dict[str, Any]]:
    """The rows under a header; lines without anything in them are no rows.

    `lines` is a `csv.reader`, and `separators` what stands between its cells, for messages.
    """
    header = next((cells for cells in lines if cells), None)
    if header is None:
        raise DataError(f"{origin} cannot be read (it is empty): give a header with the names of the columns, and rows")
    named = [name for name in header if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{origin} has two columns {twice}: rename one of them")
    for cells in lines:
        if cells and len(cells) != len(header):
            raise DataError(
                f"{origin}, line {lines.line_num} has {len(cells)} cells and the header {len(header)}: put cells with "
                f"{separators} in quotation marks, or mend the row"
            )
        if cells:  # a column without a name is an index that some program wrote
            yield {name: text or None for name, text in zip(header, cells, strict=True) if name}


def _rows_of_arrow(path: Path) -> list[dict[str, Any]]:
    try:
        if kind_of(path) == ".parquet":
            # not partitioned by the names of its folders
            table = pyarrow.parquet.read_table(path, partitioning=None)
        else:
            with pyarrow.memory_map(str(path)) as source:
                table = pyarrow.ipc.open_stream(source).read_all()
        if len(set(table.column_names)) < len(table.column_names):
            raise DataError(f"{path} has two columns of one name ({', '.join(table.column_names)}): rename one of them")
        return rows_of_table(table)
    except (OSError, ValueError, OverflowError, NotImplementedError) as error:  # pyarrow's own errors are ValueErrors
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path} cannot be read ({reason}): mend it, or save it anew") from None


def rows_of_table(table: pyarrow.Table) -> list[dict[str, Any]]:
    """The rows of a table by its own types, with JSON that `datasets` has stored as text read as JSON."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for field in table.schema:
        if "arrow.json" in str(field.type):
            for row in rows:
                row[field.name] = _unpacked(row[field.name], field.type)
    return rows


def class_names(path: Path) -> dict[str, list[str]]:
    """The names of numbered classes by their columns, as `datasets` writes them into Parquet; none in other files."""
    if kind_of(path) != ".parquet":
        return {}
    try:
        written = (pyarrow.parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(written)["info"]["features"]
        return {name: list(kind["names"]) for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # written by another program, in its own way
        return {}


def _unpacked(value: Any, kind: pyarrow.DataType) -> Any:
    if value is None:
        return None
    if isinstance(kind, pyarrow.JsonType):
        return json.loads(value)
    if pyarrow.types.is_struct(kind):
        return {field.name: _unpacked(value[field.name], field.type) for field in kind}
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return [_unpacked(entry, kind.value_type) for entry in value]
    return value


def _parsed(text: str, origin: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        reason = error.msg if "\n" not in text.strip() else f"{error.msg}, line {error.lineno}"
    except RecursionError:
        reason = "too deeply nested"
    except ValueError as error:  # a key given twice, a number of too many digits
        reason = str(error)
    raise DataError(f"{origin} is not JSON ({reason}): mend or drop it")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return values


def _objects(entries: Iterable[Any], origin: str) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{origin} holds {shown(entry)}, which is not a JSON object: give columns by name")
        yield entry
