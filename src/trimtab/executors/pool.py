"""Several processes that make artifacts side by side, each with its share of threads and its own device.

A worker that dies takes its order with it, and nothing else: the order has failed, and the next one gets a new worker.

    >>> with Pool(Path("runs/demo"), workers=[1, 2], threads=1) as pool:                # doctest: +SKIP
    ...     pool.take(order)
    ...     pool.wait(print)
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from trimtab.executors.messages import Event, Order, Tell
from trimtab.models.hardware import visible_devices

PATIENCE = 20.0
"""Seconds that a worker has to end when it is told to."""


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[str]
    digest: str | None = None


class Pool:
    """At most so many workers, by their numbers from 1, for the run directory `folder`; each begins with `threads`
    threads. The visible CUDA devices are dealt out in turn: worker n gets the n-th."""

    def __init__(self, folder: Path, workers: Iterable[int], threads: int) -> None:
        self._folder = folder
        self._threads = threads
        self._workers: dict[int, _Worker | None] = dict.fromkeys(workers)
        self._heard: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(at_once=kind is not None)

    def end(self, *, at_once: bool = False) -> None:
        """End all workers, once they have made what they make or `at_once`; further orders get new ones."""
        ending = [worker for worker in self._workers.values() if worker is not None]
        self._workers = dict.fromkeys(self._workers)
        for worker in ending:
            if at_once:
                worker.process.terminate()
            else:
                _send(worker, None)
        for worker in ending:
            try:
                worker.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def free(self) -> bool:
        return any(worker is None or worker.digest is None for worker in self._workers.values())

    def start(self) -> None:
        """Start all workers now, which load their libraries, and not when they are first wanted."""
        for number, worker in self._workers.items():
            if worker is None:
                self._workers[number] = self._start(number)

    def take(self, order: Order) -> None:
        number, worker = next((n, w) for n, w in self._workers.items() if w is None or w.digest is None)
        if worker is None:
            worker = self._workers[number] = self._start(number)
        worker.digest = order.digest
        _send(worker, asdict(order))

    def wait(self, tell: Tell) -> None:
        worker, reply = self._heard.get()
        if reply is None:
            if self._workers[worker.number] is worker:
                self._workers[worker.number] = None
            if worker.digest is not None:
                tell(Event(worker.digest, "failed", self._death(worker)))
            return
        event = Event(**reply)
        if event.kind in ("made", "failed"):
            worker.digest = None
        tell(event)

    def _start(self, number: int) -> _Worker:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads), "TOKENIZERS_PARALLELISM": "false"}
        devices = visible_devices()
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[(number - 1) % len(devices)]
        with self._log(number).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "trimtab.executors.worker",
                    str(number),
                    str(os.getpid()),
                    str(self._folder),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=environment,
                start_new_session=True,  # Ctrl-C is this process's to answer
            )
        worker = _Worker(number, process)
        threading.Thread(target=self._hear, args=(worker,), daemon=True).start()
        return worker

    def _hear(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            if line.endswith("\n"):  # a kill can cut the last one
                self._heard.put((worker, json.loads(line)))
        self._heard.put((worker, None))

    def _log(self, number: int) -> Path:
        return self._folder / f"log-worker-{number}.txt"

    def _death(self, worker: _Worker) -> str:
        code = worker.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return (
                f"its process was killed by {name}: where memory is short, lower --jobs, and the same command goes on"
            )
        last = self._log(worker.number).read_text(encoding="utf-8").strip().rpartition("\n")[2]
        return f"its process ended with code {code} ({last}); {self._log(worker.number).name} has more"


def _send(worker: _Worker, message: dict[str, Any] | None) -> None:
    stdin: IO[str] | None = worker.process.stdin
    assert stdin is not None
    try:
        stdin.write(json.dumps(message) + "\n")
        stdin.flush()
    except BrokenPipeError:
        pass  # it has died, which is heard where its replies end
