"""The splits of a data set's folder: which files belong to which, and their rows.

`datasets` says which files make a split, by their names, their folders or the README's settings. It does not read them:
it would guess the types of JSON and CSV, and make timestamps of texts that look like dates. Only what `datasets` itself
has saved is read by it, with the types that were saved.

    >>> splits = splits_of(Path("pairs"))                                               # doctest: +SKIP
    >>> splits["train"]()[0].values["chosen"]                                           # doctest: +SKIP
    'An oak.'
"""

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import yaml

from trimtab.data.formats import rows_of_table
from trimtab.data.rows import NamedRow, named_rows
from trimtab.errors import DataError

ROWS_AT_ONCE = 1000


def splits_of(folder: Path) -> Mapping[str, Callable[[], list[NamedRow]]]:
    """What reads the rows of each split, by its name.

    Raises:
        DataError: the folder holds no data set.
    """
    try:
        if (folder / "dataset_dict.json").exists():
            saved = datasets.DatasetDict.load_from_disk(folder)
            return {str(name): _saved(table, folder, str(name)) for name, table in saved.items()}
        if (folder / "state.json").exists():
            table = datasets.Dataset.load_from_disk(folder)
            return {str(table.split or "unnamed"): _saved(table, folder, str(table.split or "unnamed"))}
        return {name: _files(paths) for name, paths in _paths(folder).items()}
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


def _paths(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, as `datasets` finds them."""
    with tempfile.TemporaryDirectory() as place:
        mirror = Path(place).resolve() / "set"  # whose name has no brackets, which datasets takes for a pattern
        mirror.mkdir()
        for path in folder.rglob("*"):
            if path.is_file():
                link = mirror / path.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        try:
            builder = datasets.load_dataset_builder(str(mirror), cache_dir=str(Path(place) / "cache"))
        except FileNotFoundError as error:  # whose text names the mirror, which is gone by then
            raise ValueError(str(error).replace(str(mirror), "the folder")) from None
        return {
            str(name): [folder / Path(path).relative_to(mirror) for path in paths]
            for name, paths in (builder.config.data_files or {}).items()
        }


def _files(paths: list[Path]) -> Callable[[], list[NamedRow]]:
    return lambda: named_rows(paths)


def _saved(table: datasets.Dataset, folder: Path, split: str) -> Callable[[], list[NamedRow]]:
    """The rows of a saved table by its own types, whatever format it was set to give them in."""

    def rows() -> list[NamedRow]:
        batches = table.with_format("arrow").iter(ROWS_AT_ONCE)
        values = [row for batch in batches for row in rows_of_table(batch)]
        return [NamedRow(f"{folder}, split {split}, row {number}", row) for number, row in enumerate(values, start=1)]

    return rows
