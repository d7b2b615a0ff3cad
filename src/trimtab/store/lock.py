"""The lock that admits one writer to a run directory, and a note that says who holds it.

A run holds `.lock`. Each shard holds its own lock, and a run excludes all shards as they exclude it. The kernel
releases the locks of a process that dies; its note stays, so the next process learns who died.
    >>> import tempfile
    >>> with run_lock(Path(tempfile.mkdtemp())) as previous:
    ...     previous is None  # no earlier process died
    True
"""

import contextlib
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil
from filelock import AcquireReturnProxy, FileLock, Timeout

from trimtab.errors import RunError
from trimtab.store.blocks import Shard
from trimtab.store.distributed import launch_command
from trimtab.store.files import write_json

LOCK = ".lock"
LOCK_SECONDS = 1.0
"""How long to wait for a lock: another process may hold it for a moment, only to see whether it is free."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock. `born`: its start in seconds since 1970, because process ids are reused."""

    pid: int
    host: str
    since: str
    command: str
    born: float

    @classmethod
    def this(cls) -> "Holder":
        """This process, as holder since now."""
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), since, command_line(), psutil.Process().create_time())

    @property
    def alive(self) -> bool | None:
        """Whether the process is running; None if it is on another machine."""
        if self.host != socket.gethostname():
            return None
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
        previous = holder_of(file)
        with _note(file):
            yield previous


def holder_of(lock: Path) -> Holder | None:
    """Who holds a lock or died with it; None if there is no note, or one that another version wrote."""
    try:
        return Holder(**json.loads(_note_file(lock).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


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
def _note(lock: Path) -> Iterator[None]:
    """A note beside the lock that names this process; only a kill leaves it there."""
    write_json(_note_file(lock), asdict(Holder.this()))
    try:
        yield
    finally:
        _note_file(lock).unlink(missing_ok=True)


def _excluded(folder: Path, shard: Shard | None) -> list[Path]:
    """The locks that must be free: of the run without shards, and of shards with another count."""
    shards = [path for path in folder.glob(f"{LOCK}-*-of-*") if path.suffix == ""]
    if shard is None:
        return shards
    others = [path for path in shards if not path.name.endswith(f"-of-{shard.count}")]
    return [folder / LOCK, *others]


def _note_file(lock: Path) -> Path:
    return lock.with_name(lock.name + ".json")
