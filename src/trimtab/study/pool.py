"""Several processes that make a study's artifacts side by side, each with its share of threads and its own device.

A worker that dies takes its task with it, and nothing else: the task has failed, and the next one gets a new worker.

    >>> with Pool(study, directory, assets, jobs=2, threads=1) as pool:                 # doctest: +SKIP
    ...     pool.take(task, run)
    ...     pool.wait(print)
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from trimtab.assets.resolve import Assets
from trimtab.runs import RunDirectory
from trimtab.study.events import Event, Tell
from trimtab.study.plan import Task
from trimtab.study.study_file import Run, Study

PATIENCE = 20.0
"""Seconds that a worker has to end when it is told to."""


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[str]
    digest: str | None = None


class Pool:
    """At most `jobs` workers, numbered from 1, each with `threads` threads; `devices` are dealt out among them."""

    def __init__(self, study: Study, directory: RunDirectory, assets: Assets, jobs: int, threads: int) -> None:
        self._study = study
        self._directory = directory
        self._assets = assets
        self._threads = threads
        self._workers: dict[int, _Worker | None] = dict.fromkeys(range(1, jobs + 1))
        self._heard: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for worker in filter(None, self._workers.values()):
            if kind is not None:
                worker.process.terminate()
            else:
                _send(worker, None)
        for worker in filter(None, self._workers.values()):
            try:
                worker.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def free(self) -> bool:
        return any(worker is None or worker.digest is None for worker in self._workers.values())

    def take(self, task: Task, run: Run) -> None:
        number, worker = next((n, w) for n, w in self._workers.items() if w is None or w.digest is None)
        if worker is None:
            worker = self._workers[number] = self._start(number)
        worker.digest = task.artifact.digest
        _send(
            worker,
            {
                "digest": task.artifact.digest,
                "run": run.name,
                "experiment": run.values,
                "decoders": [decoder.name for decoder in self._study.decoders(run)],
                "threads": self._threads,
                "cache": str(self._assets.cache),
                "path_map": None if self._assets.path_map is None else str(self._assets.path_map),
            },
        )

    def wait(self, tell: Tell) -> None:
        worker, reply = self._heard.get()
        if reply is None:
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
        devices = listed_devices()
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[(number - 1) % len(devices)]
        with self._log(number).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "trimtab.study.worker",
                    str(number),
                    str(os.getpid()),
                    str(self._directory.path),
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
        return self._directory.path / f"log-worker-{number}.txt"

    def _death(self, worker: _Worker) -> str:
        code = worker.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return (
                f"its process was killed by {name}: where memory is short, lower --jobs, and the same command goes on"
            )
        last = self._log(worker.number).read_text(encoding="utf-8").strip().rpartition("\n")[2]
        return f"its process ended with code {code} ({last}); {self._log(worker.number).name} has more"


def listed_devices() -> list[str]:
    """The devices that CUDA_VISIBLE_DEVICES lists."""
    return [device.strip() for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip()]


def _send(worker: _Worker, message: dict[str, Any] | None) -> None:
    stdin: IO[str] | None = worker.process.stdin
    assert stdin is not None
    try:
        stdin.write(json.dumps(message) + "\n")
        stdin.flush()
    except BrokenPipeError:
        pass  # it has died, which is heard where its replies end
