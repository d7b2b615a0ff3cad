"""Workers as processes of this machine: `--jobs N`. Each has its share of the threads, or a GPU of its own.

Several processes with few threads use a CPU better than one with many, whose threads wait for each other at every
operation. Each worker is a process pool of one process, since a pool of several ends all of them where one dies.
Imports nothing heavy: a new process reads this module before it sets what torch reads when it is imported.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from trimtab.executors.collector import importing
from trimtab.executors.idle_threads import wait_briefly
from trimtab.executors.work import Note, Result, Setup, Work, WorkerDied
from trimtab.models.hardware import visible_devices
from trimtab.store.artifacts import Artifact
from trimtab.store.log import WarningHandler

_SPAWN = multiprocessing.get_context("spawn")
SHUTDOWN_SECONDS = 20.0
"""How long a worker may take to end before it is killed."""
_log = logging.getLogger(__name__)
Put = Callable[[object], None]


def perform(work: Work) -> Result:
    """`worker.perform_apart`, imported when the first work comes."""
    from trimtab.executors.worker import perform_apart

    return perform_apart(work)


def rest() -> None:
    """`Worker.rest` of this process."""
    from trimtab.executors.worker import rest_now

    rest_now()


class LocalWorkers:
    """`count` worker processes for one run. Worker n gets the n-th visible CUDA device; where there are fewer devices,
    several share one.
    """

    perform = staticmethod(perform)

    def __init__(self, setup: Setup, count: int, threads: int) -> None:
        devices = visible_devices()
        self._put: Put = lambda event: None
        self._workers = {
            f"worker {number}": _ProcessWorker(
                _Start(setup, number, threads, devices[(number - 1) % len(devices)] if devices else None), self._receive
            )
            for number in range(1, count + 1)
        }

    def __enter__(self) -> Self:
        for worker in self._workers.values():
            worker.start()  # they load their libraries while this process checks and plans
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for worker in self._workers.values():
            worker.end(at_once=kind is not None)
        for worker in self._workers.values():
            worker.join()

    def all(self) -> Mapping[str, Executor]:
        return self._workers

    def listen(self, put: Put) -> None:
        self._put = put

    threads = None

    def rest(self) -> None:
        for worker in self._workers.values():
            worker.submit(rest)

    def check(self, wanted: object) -> None:
        return  # the driver has compared this machine

    def work(self) -> None:
        return  # this process only drives

    def parcel(self, artifact: Artifact) -> None:
        return  # all see the run directory

    def _receive(self, note: Note) -> None:
        self._put(note)


@dataclass(frozen=True)
class _Start:
    """How a worker process starts: its number, threads, and CUDA device as CUDA_VISIBLE_DEVICES names it."""

    setup: Setup
    number: int
    threads: int
    device: str | None

    @property
    def log(self) -> Path:
        return self.setup.run / f"log-worker-{self.number}.txt"


class _ProcessWorker(Executor):
    """One process, started anew by the next `submit` where it has died."""

    def __init__(self, start: _Start, put: Callable[[Note], None]) -> None:
        self._start, self._put = start, put
        self._pool: ProcessPoolExecutor | None = None
        self._process: Any = None

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self._pool is not None:
            return
        receiver, sender = _SPAWN.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, _SPAWN, _begin, (self._start, sender))
        before = set(multiprocessing.active_children())
        with _main_module_hidden(), _interrupts_held():
            self._pool.submit(_load)
        (self._process,) = set(multiprocessing.active_children()) - before
        sender.close()  # so that the receiver sees the process end
        threading.Thread(target=self._read, args=(receiver,), daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.start()
        assert self._pool is not None
        outer: Future[Any] = Future()
        try:
            inner = self._pool.submit(fn, *args, **kwargs)
        except BrokenExecutor:
            _log.warning("%s, while it had nothing to do; it starts again", self._death())
            return self.submit(fn, *args, **kwargs)
        inner.add_done_callback(lambda done: self._pass_on(done, outer))
        return outer

    def _pass_on(self, inner: "Future[Any]", outer: "Future[Any]") -> None:
        if inner.cancelled():  # the run ended before the process came to it
            outer.cancel()
            return
        error = inner.exception()
        if isinstance(error, BrokenExecutor):
            outer.set_exception(WorkerDied(self._death()))
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    def end(self, *, at_once: bool) -> None:
        """Let the process end when it is idle, or kill it."""
        if self._pool is not None:
            if at_once:
                self._process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait until the process has ended; one that takes too long is killed."""
        if self._process is not None:
            self._process.join(SHUTDOWN_SECONDS)
            self._process.kill()
            self._process.join()
        self._pool = None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.end(at_once=False)
        self.join()

    def _death(self) -> str:
        process, log = self._process, self._start.log
        self._pool = None
        process.join()
        name = f"worker {self._start.number}"
        if process.exitcode < 0:
            number = -process.exitcode
            signals = {each.value: each.name for each in signal.Signals}  # without the real-time ones
            return f"{name} was killed by {signals.get(number, f'signal {number}')}: if memory is short, lower --jobs"
        last = ""
        with contextlib.suppress(OSError):
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        return f"{name} ended with code {process.exitcode} ({last}); {log.name} has more"

    def _read(self, receiver: "Connection[Any, Any]") -> None:
        with receiver, contextlib.suppress(EOFError, OSError):
            while True:
                self._put(receiver.recv())


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep a new process from importing the user's main script, which would run again where nothing guards it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits, also for a process that is started inside, until it says what it does then: it would print a
    traceback beside the run's line."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(start: _Start, sender: "Connection[Any, Any]") -> None:
    """Make a new process a worker. It ends with its parent, whatever it does then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the parent ends its workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    wait_briefly()
    os.environ |= {"OMP_NUM_THREADS": str(start.threads), "TOKENIZERS_PARALLELISM": "false"}
    if start.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = start.device
    log = os.open(start.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)  # what libraries print
    os.dup2(log, 2)
    lock = threading.Lock()

    def put(note: Note) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            sender.send(note)

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.captureWarnings(True)
    logger = logging.getLogger("trimtab")
    logger.setLevel(logging.INFO)  # tracebacks of a user's code, too
    logger.addHandler(WarningHandler(lambda text: put(Note(warning=text))))
    with importing():
        from trimtab.executors.worker import Worker, begin  # imports torch, which reads the environment

    begin(Worker(start.setup, put))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _load() -> None:
    """The first thing that a worker is given: it starts the process, which loads its libraries."""
