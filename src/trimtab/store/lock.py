"""The lock that admits one writer to a run directory, and a note that says who holds it.

A run holds `.lock`. Each shard holds its own lock, and a run excludes all shards as they exclude it. The kernel
releases the locks of a process that dies; its note stays, so the next process learns who died.

At the URL of a run directory there is a note, too, which names its writer and is renewed while the writer lives.

    >>> import tempfile
    >>> with run_lock(Path(tempfile.mkdtemp())) as previous:
    ...     previous is None  # no earlier process died
    True
"""

import contextlib
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import AcquireReturnProxy, FileLock, Timeout

from trimtab.errors import ConfigurationError, RunError
from trimtab.store.blocks import Shard
from trimtab.store.distributed import launch_command
from trimtab.store.files import read_json, write_json
from trimtab.store.remote import NOTE, Mirror, mirror_of

LOCK = ".lock"
RENEW_SECONDS, DEAD_SECONDS = 60.0, 600.0
"""How often the note of a lock at a URL is renewed, and after how long without that its process counts as dead."""
LOCK_SECONDS = 1.0
"""How long to wait for a lock: another process may hold it for a moment, only to see whether it is free."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock. `born`: its start in seconds since 1970, because process ids are reused.

    `seen`: when the note of a lock at a URL was last renewed, in seconds since 1970.
    """

    pid: int
    host: str
    since: str
    command: str
    born: float
    seen: float | None = None

    @classmethod
    def this(cls) -> "Holder":
        """This process, as holder since now."""
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), since, command_line(), psutil.Process().create_time())

    @classmethod
    def read(cls, note: Mapping[str, Any] | None) -> "Holder | None":
        """The holder that a note names; None if there is no note, or one that another version wrote."""
        try:
            return None if note is None else cls(**note)
        except TypeError:
            return None

    @property
    def alive(self) -> bool | None:
        """Whether the process is running; None if it is on another machine, which leaves no sign of life."""
        if self.seen is not None and time.time() - self.seen > DEAD_SECONDS:
            return False
        if self.host != socket.gethostname():
            return None if self.seen is None else True
        try:
            process = psutil.Process(self.pid)
            # within a second: when the system clock is adjusted, the start time of a process shifts slightly
            same = abs(process.create_time() - self.born) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


def command_line() -> str:
    """The command that started this process, as a user would type it; of launched processes, the launcher's."""
    program, *arguments = sys.argv
    name = Path(program).name
    own = ["trimtab" if name == "__main__.py" else name, *arguments]  # python -m trimtab
    return shlex.join(launch_command(arguments) or own)


def suffix(shard: Shard | None) -> str:
    """What the names of a shard's files end with; nothing for a run without shards."""
    return "" if shard is None else f"-{shard.index}-of-{shard.count}"


@contextlib.contextmanager
def run_lock(folder: Path, shard: Shard | None = None) -> Iterator[Holder | None]:
    """Hold the lock of a run, or of one of its shards; gives the holder that died with it, if any.

    Raises:
        RunError: another process holds a lock that excludes this one; the message names it.
    """
    file = folder / f"{LOCK}{suffix(shard)}"
    with _acquire(file):
        for excluded in _excluded(folder, shard):
            with _acquire(excluded):
                pass
        this, previous = Holder.this(), holder_of(file)
        with _note(file, this):
            if (mirror := mirror_of(folder)) is None:
                yield previous
                return
            if shard is not None:
                raise ConfigurationError(
                    f"{mirror.remote.url} takes whole artifacts and no shards: give --runs a folder"
                )
            previous = _claim(mirror, this) or previous
            with _held(mirror, this):
                yield previous


def holder_of(lock: Path) -> Holder | None:
    """Who holds a lock or died with it; None if there is no note, or one that another version wrote."""
    return Holder.read(read_json(_note_file(lock)))


def _acquire(file: Path) -> AcquireReturnProxy:
    """Acquire a lock, to be released by a `with` statement."""
    try:
        return FileLock(file).acquire(timeout=LOCK_SECONDS)
    except Timeout:
        holder = holder_of(file) or "another process"
        raise RunError(f"{file.parent} is in use by {holder}: wait for it, stop it, or give another folder") from None
    except OSError as error:
        raise RunError(f"{file.parent} cannot be written: {error.strerror}; give another folder") from None


@contextlib.contextmanager
def _note(lock: Path, this: Holder) -> Iterator[None]:
    """A note beside the lock that names this process; only a kill leaves it there."""
    write_json(_note_file(lock), asdict(this))
    try:
        yield
    finally:
        _note_file(lock).unlink(missing_ok=True)


def _claim(mirror: Mirror, this: Holder) -> Holder | None:
    """Write the note at a URL that names its writer, in place of one whose process has ended, which is returned.

    It has ended if the note was written from this folder, whose lock the kernel has released, or is not renewed.
    """
    died = None
    if (note := mirror.remote.read_json(NOTE)) is not None:
        died = Holder.read(note)
        renewed = died is None or died.seen is None or time.time() - died.seen < DEAD_SECONDS
        if renewed and not mirror.wrote(note):
            raise _refusal(mirror, died)
        mirror.remote.delete(NOTE)
    try:
        mirror.write_note(_seen_now(this), create=True)
    except FileExistsError:
        raise _refusal(mirror, Holder.read(mirror.remote.read_json(NOTE))) from None
    return died


@contextlib.contextmanager
def _held(mirror: Mirror, this: Holder) -> Iterator[None]:
    """Inside, the note at the URL is renewed. At the end uploads report, log and links, and deletes the note."""
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(mirror, this, ended), daemon=True)
    renewing.start()
    try:
        mirror.fetch_rest()
        yield
        mirror.publish()
        mirror.prune()
    except BaseException:
        mirror.remote.patient = False  # the error that ended the run must not wait for the network
        with contextlib.suppress(RunError):
            mirror.publish()
        raise
    finally:
        ended.set()
        renewing.join()  # it must not write the note once more after it was deleted
        with contextlib.suppress(RunError):  # the next run from this folder knows the note
            mirror.check_writer()
            mirror.remote.delete(NOTE)


def _renew(mirror: Mirror, this: Holder, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with contextlib.suppress(RunError):
            mirror.check_writer()
            mirror.write_note(_seen_now(this))


def _seen_now(holder: Holder) -> dict[str, Any]:
    return {**asdict(holder), "seen": time.time()}


def _refusal(mirror: Mirror, holder: Holder | None) -> RunError:
    url = mirror.remote.url
    minutes = round(DEAD_SECONDS / 60)
    return RunError(
        f"{url} is in use by {holder or 'another process'}: wait for it, stop it, or give another address in --runs; "
        f"if it was killed on another machine, start again {minutes} minutes after its end, or delete {url}/{NOTE}"
    )


def _excluded(folder: Path, shard: Shard | None) -> list[Path]:
    """The locks that must be free: of the run without shards, and of shards with another count."""
    shards = [path for path in folder.glob(f"{LOCK}-*-of-*") if path.suffix == ""]
    if shard is None:
        return shards
    others = [path for path in shards if not path.name.endswith(f"-of-{shard.count}")]
    return [folder / LOCK, *others]


def _note_file(lock: Path) -> Path:
    return lock.with_name(lock.name + ".json")
