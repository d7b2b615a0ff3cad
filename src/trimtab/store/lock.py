"""One writer: a lock on a run directory, and the note of who holds it.

A plain run holds `.lock`; shards hold one lock each, and keep the plain run out as it keeps them out. The kernel drops
a lock when its process dies, so a stale one is simply taken over; the note that is then left says who died.

Workers, processes that a study or a run starts, hold locks of their own, which keep everybody out for as long as the
worker lives, also where its parent, which holds `.lock`, has been killed.

    >>> with hold(Path("runs/demo")) as previous:                                       # doctest: +SKIP
    ...     previous is None  # nobody died here
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
from filelock import FileLock, Timeout

from trimtab.errors import RunError
from trimtab.store.blocks import Shard
from trimtab.store.distributed import COMMAND
from trimtab.store.files import write_json

LOCK = ".lock"
WORKER = "-worker-"
PATIENCE = 1.0
"""Seconds to wait for a lock: others hold it for a moment while they look whether it is free."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a run directory. `born` is when the process began, in seconds since 1970: ids are reused."""

    pid: int
    host: str
    since: str
    command: str
    born: float

    @classmethod
    def this(cls) -> "Holder":
        """This process, from now on."""
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), since, command_line(), psutil.Process().create_time())

    @property
    def alive(self) -> bool | None:
        """Whether the process lives; None where that cannot be seen from this machine."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            # To the second: where the clock is set, the same process seems born a little earlier or later.
            same = abs(process.create_time() - self.born) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


def command_line() -> str:
    """The command that this process was started with, as one would type it."""
    if COMMAND in os.environ:
        return os.environ[COMMAND]
    program = Path(sys.argv[0]).name
    # python -m trimtab, python -m trimtab.cli
    return shlex.join(["trimtab" if program in ("__main__.py", "cli.py") else program, *sys.argv[1:]])


def suffix(shard: Shard | None) -> str:
    """What the names of a process's own files in the run directory end with."""
    return "" if shard is None else f"-{shard.index}-of-{shard.count}"


@contextlib.contextmanager
def hold(folder: Path, shard: Shard | None = None) -> Iterator[Holder | None]:
    """Hold the directory for one writer, or a shard of it for one writer; gives whoever died while holding it.

    Raises:
        RunError: another process holds it; the message says which.
    """
    own = folder / f"{LOCK}{suffix(shard)}"
    lock = _acquire(folder, own)
    try:
        for other in _rivals(folder, shard):
            _acquire(folder, other).release()
        previous = holder_of(own)
        write_json(_note(own), asdict(Holder.this()))
        try:
            yield previous
        finally:  # a note that stays speaks of a process that was killed
            _note(own).unlink(missing_ok=True)
    finally:
        lock.release()


@contextlib.contextmanager
def hold_as_worker(folder: Path, worker: int, parent: int) -> Iterator[None]:
    """Hold the lock of a worker that the process `parent` has started.

    The parent holds `.lock` while it lives, and whoever takes that over tries the workers' locks after it. So a worker
    that finds its parent alive once it has its own lock is seen by all who come later; one that does not, gives up.

    Raises:
        RunError: the parent has ended, or a worker of an earlier one still holds the lock.
    """
    own = folder / f"{LOCK}{WORKER}{worker}"
    lock = _acquire(folder, own)
    try:
        if os.getppid() != parent:
            raise RunError(f"{folder}: the process that started this worker has ended")
        write_json(_note(own), asdict(Holder.this()))
        try:
            yield
        finally:
            _note(own).unlink(missing_ok=True)
    finally:
        lock.release()


def holder_of(lock: Path) -> Holder | None:
    """Who holds a lock, or died holding it; None where there is no note, or one that another version wrote."""
    try:
        return Holder(**json.loads(_note(lock).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _acquire(folder: Path, file: Path) -> FileLock:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        holder = holder_of(file) or "another process"
        raise RunError(f"{folder} is in use by {holder}: wait for it, stop it, or give another folder") from None
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; give another folder") from None
    return lock


def _rivals(folder: Path, shard: Shard | None) -> list[Path]:
    """The locks that nobody else may hold meanwhile: of the plain run, of shards that are cut in another way, and of
    workers."""
    shards = [path for path in folder.glob(f"{LOCK}-*-of-*") if path.suffix == ""]
    workers = [path for path in folder.glob(f"{LOCK}{WORKER}*") if path.suffix == ""]
    if shard is None:
        return [*shards, *workers]
    others = [path for path in shards if not path.name.endswith(f"-of-{shard.count}")]
    return [folder / LOCK, *others, *workers]


def _note(lock: Path) -> Path:
    return lock.with_name(lock.name + ".json")
