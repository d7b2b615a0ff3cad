"""Run directories at a URL, such as `--runs s3://bucket/runs`.

A run works in a local folder of the cache. An artifact is uploaded when it is whole, its seal last, so that no reader
takes half of one for whole. One that is whole at the URL and not here is downloaded before anything is made.

    >>> runs_folder("runs")
    PosixPath('runs')
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trimtab.errors import RunError, TakenOverError, shown
from trimtab.store.files import (
    SEAL,
    cache_folder,
    discard,
    is_sealed,
    link_to,
    read_json,
    seal,
    sync,
    write_json,
    write_text,
)
from trimtab.store.url_folder import UrlFolder

LINKS = "links.json"
"""The file at the URL that stands for a run directory's symbolic links, which object stores do not have."""
NOTE = ".lock.json"
"""The note at the URL that names its writer."""
NOTE_WRITTEN, NOTE_READ = ".lock-written.json", ".lock-read.json"
"""Local files: the last note that was written from this folder, and a copy of the one at the URL, for the status."""
LOGS = (".txt", ".jsonl")
_MARKER = ".url"
_ARTIFACT = re.compile(r"(?!report-).+-[0-9a-f]{12}")
_log = logging.getLogger(__name__)


def runs_folder(runs: str | Path) -> Path:
    """The local folder of `--runs`: the path itself, or the folder in the cache that stands for a URL.

    Raises:
        ConfigurationError: the URL cannot be used.
    """
    if "://" not in str(runs):
        return Path(runs)
    url = UrlFolder(str(runs)).url
    folder = cache_folder() / "runs" / hashlib.sha256(url.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _MARKER, [url])
    return folder


def mirror_of(run: Path) -> "Mirror | None":
    """The mirror of a run directory in a folder that stands for a URL; None for any other."""
    try:
        return Mirror(f"{(run.parent / _MARKER).read_text(encoding='utf-8')}/{run.name}", run)
    except (FileNotFoundError, NotADirectoryError):
        return None


def address_of(run: Path) -> str:
    """How a user names a run directory: by its URL where it has one, else by its path."""
    mirror = mirror_of(run)
    return str(run) if mirror is None else mirror.remote.url


def local_run(run: str | Path, *stages: str) -> Path:
    """The local folder of a run directory, given by path or URL; of a URL with the artifacts of these stages.

    Raises:
        ConfigurationError: the URL cannot be used.
        RunError: it cannot be read.
    """
    protocol, separator, path = str(run).partition("://")
    if not separator:
        return Path(run)
    above, _, name = path.rstrip("/").rpartition("/")
    folder = runs_folder(f"{protocol}://{above}") / name
    folder.mkdir(exist_ok=True)
    mirror = Mirror(f"{protocol}://{above}/{name}", folder)
    # where the lock is taken, a run works here, whose files are newer
    with contextlib.suppress(Timeout), FileLock(folder / ".lock").acquire(timeout=0):
        mirror.fetch_rest()
        mirror.copy_note()
    for artifact in mirror.artifacts:
        if artifact.rpartition("-")[0] in stages:
            mirror.settle(folder / artifact)
    return folder


class Mirror:
    """A run directory at a URL (`remote`), and the local folder that stands for it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.remote, self.folder = UrlFolder(url), folder
        self._sizes: dict[str, int] | None = None
        self._published: dict[Path, int] = {}

    @property
    def artifacts(self) -> list[str]:
        """The names of the artifacts that are whole at the URL."""
        folders = [name.removesuffix(f"/{SEAL}") for name in self._listing() if name.endswith(f"/{SEAL}")]
        return [folder for folder in folders if _ARTIFACT.fullmatch(folder)]

    def settle(self, folder: Path) -> None:
        """Download an artifact that is whole at the URL alone, or upload one that is whole here alone."""
        there = f"{folder.name}/{SEAL}"
        if is_sealed(folder) == (there in self._listing()):
            return
        with FileLock(self.folder / ".mirror.lock"):  # other processes on this machine want it, too
            if not is_sealed(folder):
                self._download(folder)
            elif not self.remote.exists(there):
                self.upload(folder)

    def upload(self, folder: Path) -> None:
        """Upload an artifact and what else has changed, the artifact's seal last.

        So whoever finds a whole artifact at the URL finds its line in the log, too.

        Raises:
            RunError: the URL cannot be written, or another run has taken it over; the artifact stays here.
        """
        self.check_writer()
        last = f"{folder.name}/{SEAL}"
        self.remote.delete(last)  # of a damaged artifact
        for path in folder.rglob("*"):
            if path.is_file() and path.name != SEAL:
                self.remote.upload(path, path.relative_to(self.folder).as_posix())
        self.publish()
        self.remote.upload(folder / SEAL, last)
        self._listing()[last] = 0
        _log.info("uploaded %s to %s", folder.name, self.remote.url)

    def publish(self) -> None:
        """Upload what is no artifact (report, log, status, traces) and has changed, and the list of links.

        Raises:
            RunError: as `upload`.
        """
        self.check_writer()
        links = {}
        for path in self._rest():
            if path.is_symlink() and not path.readlink().is_absolute():
                links[path.relative_to(self.folder).as_posix()] = path.readlink().as_posix()
            elif path.is_file() and self._published.get(path) != (changed := path.stat().st_mtime_ns):
                self.remote.upload(path, path.relative_to(self.folder).as_posix())
                self._published[path] = changed
        if links:
            self.remote.write_json(LINKS, links)

    def prune(self) -> None:
        """Delete at the URL what was no artifact there when `fetch_rest` took it over, and is gone here since."""
        for name in self._listing():
            if _is_rest(name) and name != LINKS and not (self.folder / name).is_file():
                self.remote.delete(name)

    def fetch_rest(self) -> None:
        """Download what is no artifact, and make the links; a log that is longer here stays."""
        (self.folder / NOTE_READ).unlink(missing_ok=True)
        self._sizes = None
        for name, size in self._listing().items():
            file = self._inside(name)
            longer = file.suffix in LOGS and file.is_file() and file.stat().st_size > size
            if _is_rest(name) and name != LINKS and not longer:
                self.remote.download(name, file)
        for name, target in (self.remote.read_json(LINKS) or {}).items():
            link = self._inside(name)
            self._inside(f"{name}/../{target}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link_to(link, Path(target))

    def write_note(self, note: Mapping[str, Any], *, create: bool = False) -> None:
        """Write the note that names the URL's writer. With `create`, FileExistsError where there is one."""
        write_json(self.folder / NOTE_WRITTEN, note)
        self.remote.write_json(NOTE, note, create=create)

    def wrote(self, note: Mapping[str, Any]) -> bool:
        """Whether a note was written from this folder, whenever its time was last renewed."""
        return {**note, "seen": None} == {**(read_json(self.folder / NOTE_WRITTEN) or {}), "seen": None}

    def check_writer(self) -> None:
        """Raise TakenOverError if the note at the URL is another's."""
        note = self.remote.read_json(NOTE)
        if note is not None and not self.wrote(note):
            raise TakenOverError(
                f"{self.remote.url} was taken over by process {note.get('pid')} on {note.get('host')}: this run ends, "
                f"and what it has finished is in {self.folder}"
            )

    def copy_note(self) -> None:
        """Copy the note for the status of this folder; without one, nobody works here or has died doing so."""
        note = self.remote.read_json(NOTE)
        if note is None:
            for name in (NOTE, NOTE_READ):
                (self.folder / name).unlink(missing_ok=True)
        else:
            write_json(self.folder / NOTE_READ, note)

    def _download(self, folder: Path) -> None:
        """Download an artifact; one that is damaged counts as absent."""
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            for name in (SEAL, *(self.remote.read_json(f"{folder.name}/{SEAL}") or {})):
                self.remote.download(f"{folder.name}/{name}", self._inside(f"{partial.name}/{name}"))
        if not is_sealed(partial):
            _log.warning("%s is damaged at %s: making it again", folder.name, self.remote.url)
            self._listing().pop(f"{folder.name}/{SEAL}", None)
            shutil.rmtree(partial, ignore_errors=True)
            return
        discard(folder)
        seal(partial)  # flushed to disk
        partial.rename(folder)
        sync(self.folder)
        _log.info("downloaded %s from %s", folder.name, self.remote.url)

    def _listing(self) -> dict[str, int]:
        """The sizes of all files at the URL, as they were when they were first asked for, and of what was uploaded."""
        if self._sizes is None:
            self._sizes = self.remote.sizes()
        return self._sizes

    def _inside(self, name: str) -> Path:
        """The local path of a file at the URL.

        Raises:
            RunError: it is outside of the run directory.
        """
        if not Path(os.path.normpath(self.folder / name)).is_relative_to(os.path.normpath(self.folder)):
            raise RunError(f"{self.remote.url} names the file {shown(name)}, outside of the run directory: delete it")
        return self.folder / name

    def _rest(self) -> Iterator[Path]:
        """The files and links in the folder that are of no artifact, and that no process is writing."""
        for top in self.folder.iterdir():
            if _is_rest(top.name):
                paths = [top] if top.is_symlink() or top.is_file() else top.rglob("*")
                yield from (path for path in paths if path.suffix != ".tmp")


def _is_rest(name: str) -> bool:
    """Whether a file or folder of a run directory is neither an artifact's nor hidden nor unfinished."""
    top = Path(name).parts[0]
    return not (top.startswith(".") or _ARTIFACT.fullmatch(top) or Path(top).suffix in (".partial", ".work", ".tmp"))
