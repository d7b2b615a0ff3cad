"""Files and folders that are complete or absent, also after a power cut.

A file is replaced atomically: written under another name, flushed to disk, renamed. A folder is *sealed* with a list of
its files and their sizes, written last; without the list, or with a file of another size, the folder counts as absent.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_json(folder / "summary.json", {"pairs": 256})
    >>> seal(folder)
    >>> is_sealed(folder)
    True
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from trimtab.errors import RunError
from trimtab.records import Generation, Pair, Prompt, Review, Score, lines_of

SEAL = "files.json"
CHUNK = 65_536  # bytes in which the end of a file is looked through
FREE_SPACE = "free space or repair the folder, then run the same command again to resume"


def cache_folder() -> Path:
    """The folder that all runs share: the environment's TRIMTAB_CACHE, or `trimtab` in the user's cache directory."""
    value = os.environ.get("TRIMTAB_CACHE")
    return Path(value).expanduser() if value else platformdirs.user_cache_path("trimtab")


def write_records(path: Path, records: Iterable[Review | Prompt | Generation | Pair | Score]) -> None:
    """Replace a JSON-lines file atomically."""
    write_text(path, lines_of(records))


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file atomically."""
    write_text(path, [json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"])


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file, or it holds none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_text(path: Path, parts: Iterable[str], *, durable: bool = True) -> None:
    """Replace a text file atomically. Unless `durable`, a power cut may lose or empty it.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(parts)
            if durable:  # without fsync, the rename can reach the disk before the text does
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): {FREE_SPACE}") from None


def append_text(path: Path, text: str) -> None:
    """Append whole lines to a text file, whose folder is created where it is missing. A line that was cut, as by a full
    disk, is taken away first.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.truncate(_end_of_lines(file))
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from None


def _end_of_lines(file: BinaryIO) -> int:
    """How many bytes the whole lines of a file take."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - CHUNK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def seal(folder: Path) -> None:
    """Flush all files of the folder to disk, then write the list of their sizes.

    Raises:
        RunError: the folder cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.name != SEAL)
    try:
        for path in paths:
            sync(path)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.is_file()}
        write_json(folder / SEAL, sizes)
        sync(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be flushed to disk ({error.strerror}): {FREE_SPACE}") from None


def is_sealed(folder: Path) -> bool:
    """Whether the folder has its seal and every file that the seal lists."""
    return broken_file(folder) is None


def broken_file(folder: Path) -> str | None:
    """The first file that is missing or not of its sealed size; None if the folder is intact."""
    sizes: dict[str, int] | None = read_json(folder / SEAL)
    if sizes is None:
        return SEAL
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            return name
    return None


def discard(folder: Path) -> None:
    """Delete a folder, its seal first: a kill in the middle leaves it unsealed."""
    (folder / SEAL).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def empty_folder(folder: Path) -> None:
    """Delete whatever a folder holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which replaces `folder` if the block ends without an exception."""
    partial = folder.with_name(folder.name + ".partial")
    empty_folder(partial)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def link_to(link: Path, target: Path) -> None:
    """Create or replace a symbolic link; `target` is relative to the link's folder."""
    new = link.with_name(link.name + ".tmp")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
