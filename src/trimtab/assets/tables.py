"""Tables of Parquet and Arrow files as rows, with the types that the file says."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from trimtab.errors import DataError

PARQUET = ".parquet"
Values = dict[str, Any]
"""The cells of a row by their columns."""


def values_in_arrow(path: Path) -> list[Values]:
    """The rows of a Parquet or Arrow file.

    Raises:
        DataError: it cannot be read, or two of its columns have one name.
    """
    try:
        if path.suffix.lower() == PARQUET:
            table = pyarrow.parquet.read_table(path, partitioning=None)  # else folders' names may become columns
        else:
            with pyarrow.memory_map(str(path)) as source:
                table = pyarrow.ipc.open_stream(source).read_all()
        if len(set(table.column_names)) < table.num_columns:
            raise DataError(f"{path} has two columns of one name ({', '.join(table.column_names)}): rename one of them")
        return values_in_table(table)
    except (OSError, ValueError, OverflowError, NotImplementedError) as error:  # pyarrow's own errors are ValueErrors
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path} cannot be read ({reason}): mend it, or save it anew") from None


def values_in_table(table: pyarrow.Table) -> list[Values]:
    """The rows of a table, with its types; JSON that `datasets` has stored as text is parsed."""
    rows: list[Values] = table.to_pylist()
    for field in table.schema:
        if "arrow.json" in str(field.type):
            for row in rows:
                row[field.name] = _with_json(row[field.name], field.type)
    return rows


def _with_json(value: Any, kind: pyarrow.DataType) -> Any:
    if value is None:
        return None
    if isinstance(kind, pyarrow.JsonType):
        return json.loads(value)
    if pyarrow.types.is_struct(kind):
        return {field.name: _with_json(value[field.name], field.type) for field in kind}
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return [_with_json(entry, kind.value_type) for entry in value]
    return value


def class_names(path: Path) -> dict[str, list[str]]:
    """The class names of each `ClassLabel` column, as `datasets` writes them into Parquet files; empty for others."""
    if path.suffix.lower() != PARQUET:
        return {}
    try:
        metadata = (pyarrow.parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(metadata)["info"]["features"]
        return {name: list(kind["names"]) for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program wrote the metadata
        return {}
