"""Files and folders that are whole or absent, also after a power cut.

A file is written beside its place, brought to the disk, and renamed. A folder is *sealed* by a list of its files and
their lengths, written last: where the list is missing or a file is shorter than it says, the folder counts as absent.
Knows nothing of what the files hold.

    >>> write_json(folder / "summary.json", {"pairs": 256})                             # doctest: +SKIP
    >>> seal(folder)                                                                    # doctest: +SKIP
    >>> is_sealed(folder)                                                               # doctest: +SKIP
    True
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trimtab.errors import RunError
from trimtab.records import Generation, Pair, Prompt, Review, Score, lines_of

SEAL = "files.json"
GO_ON = "free space or mend the folder, and the same command goes on"
AnyRecord = Review | Prompt | Generation | Pair | Score


def write_records(path: Path, records: Iterable[AnyRecord]) -> None:
    """Write a JSON-lines file whole."""
    write_text(path, lines_of(records))


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file whole."""
    write_text(path, [json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"])


def write_text(path: Path, parts: Iterable[str], *, lasting: bool = True) -> None:
    """Write a file so that it is there whole or as it was. Where it is not `lasting`, a power cut may undo it.

    Raises:
        RunError: the file system refuses.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(parts)
            if lasting:  # else the rename could reach the disk before the text does
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): {GO_ON}") from None


def seal(folder: Path) -> None:
    """Bring all that is in the folder to the disk, and list it.

    Raises:
        RunError: the file system refuses.
    """
    paths = sorted(path for path in folder.rglob("*") if path.name != SEAL)
    try:
        for path in paths:
            sync(path)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.is_file()}
        write_json(folder / SEAL, sizes)
        sync(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be brought to the disk ({error.strerror}): {GO_ON}") from None


def is_sealed(folder: Path) -> bool:
    """Whether the folder is there with all that it was sealed with."""
    return broken_file(folder) is None


def broken_file(folder: Path) -> str | None:
    """The first file that is missing or not as long as it was when the folder was sealed; None for a sound folder."""
    try:
        sizes: dict[str, int] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return SEAL
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            return name
    return None


def discard(folder: Path) -> None:
    """Delete a folder; a kill in the middle leaves it unsealed."""
    (folder / SEAL).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` where the block ends without an exception."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def link_to(link: Path, target: Path) -> None:
    """Point a symbolic link at `target`, a path from the link's own folder, whatever it pointed at before."""
    new = link.with_name(link.name + ".tmp")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
