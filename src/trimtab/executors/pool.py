"""An executor with several worker processes, each with its share of threads and its own device.

A worker that dies fails its task only; the next task gets a new worker.
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
from typing import Any, Self

from trimtab.executors.messages import Message, Send, Task
from trimtab.models.hardware import visible_devices

SHUTDOWN_SECONDS = 20.0
"""How long a worker may take to end before it is killed."""


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[str]
    digest: str | None = None


class Pool:
    """Workers of the given numbers, counted from 1, for the run directory `folder`; each starts with `threads` threads.

    Worker n gets the n-th visible CUDA device; with fewer devices than workers, several share one.
    """

    def __init__(self, folder: Path, workers: Iterable[int], threads: int) -> None:
        self._folder = folder
        self._threads = threads
        self._workers: dict[int, _Worker | None] = dict.fromkeys(workers)
        self._messages: queue.SimpleQueue[tuple[_Worker, Message | None]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(at_once=kind is not None)

    def end(self, *, at_once: bool = False) -> None:
        """End all workers, after their current tasks or `at_once`. Later tasks get new ones."""
        workers = [worker for worker in self._workers.values() if worker is not None]
        self._workers = dict.fromkeys(self._workers)
        for worker in workers:
            if at_once:
                worker.process.terminate()
            else:
                _send(worker, None)
        for worker in workers:
            try:
                worker.process.wait(SHUTDOWN_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def free(self) -> bool:
        """Whether another task can be submitted."""
        return any(worker is None or worker.digest is None for worker in self._workers.values())

    def start(self) -> None:
        """Start all workers, so that they load their libraries before the first task comes."""
        for number in self._workers:
            self._started(number)

    def submit(self, task: Task) -> None:
        """Send a task to a free worker."""
        number = next(number for number, worker in self._workers.items() if worker is None or worker.digest is None)
        worker = self._started(number)
        worker.digest = task.digest
        _send(worker, asdict(task))

    def wait(self, send: Send) -> None:
        """Wait for one message, or for a worker's end, which fails its task."""
        worker, message = self._messages.get()
        if message is None:
            if self._workers[worker.number] is worker:
                self._workers[worker.number] = None
            if worker.digest is not None:
                send(Message(worker.digest, "failed", self._death(worker)))
            return
        if message.kind in ("made", "failed"):
            worker.digest = None
        send(message)

    def _started(self, number: int) -> _Worker:
        worker = self._workers[number]
        if worker is None:
            worker = self._workers[number] = self._start(number)
        return worker

    def _start(self, number: int) -> _Worker:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads), "TOKENIZERS_PARALLELISM": "false"}
        if devices := visible_devices():
            environment["CUDA_VISIBLE_DEVICES"] = devices[(number - 1) % len(devices)]
        arguments = [str(number), str(os.getpid()), str(self._folder)]
        with self._log(number).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trimtab.executors.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=environment,
                start_new_session=True,  # Ctrl-C must reach the driver alone
            )
        worker = _Worker(number, process)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            if line.endswith("\n"):  # a kill can truncate the last line
                self._messages.put((worker, Message(**json.loads(line))))
        self._messages.put((worker, None))

    def _log(self, number: int) -> Path:
        return self._folder / f"log-worker-{number}.txt"

    def _death(self, worker: _Worker) -> str:
        code, log = worker.process.wait(), self._log(worker.number)
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was killed by {name}: if memory is short, lower --jobs; run the same command again"
        last = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
        return f"its process ended with code {code} ({last}); {log.name} has more"


def _send(worker: _Worker, message: dict[str, Any] | None) -> None:
    assert worker.process.stdin is not None
    try:
        worker.process.stdin.write(json.dumps(message) + "\n")
        worker.process.stdin.flush()
    except BrokenPipeError:
        pass  # the worker has died, which `wait` reports
