"""The actor that is a worker of a Ray cluster. Imports nothing heavy: it sets what torch reads when it is imported."""

import contextlib
import os
import queue
from collections.abc import Callable
from typing import Any

import ray

from trimtab.executors.collector import importing
from trimtab.executors.idle_threads import wait_briefly
from trimtab.executors.ray_start import Hello, Start, versions
from trimtab.executors.work import Note, Wanted


class RayActor:
    """Keeps a worker, and so its models. `hello`, `load`, `lacks` and `call` run one after the other."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._notes: queue.SimpleQueue[Note] = queue.SimpleQueue()
        self._worker: Any = None

    def hello(self) -> Hello:
        return Hello(versions(), self._start.token.is_file())

    def load(self) -> None:
        """Load all libraries, so that the first work need not wait for them."""
        if self._worker is not None:
            return
        wait_briefly()
        os.environ |= {"OMP_NUM_THREADS": str(self._start.threads), "TOKENIZERS_PARALLELISM": "false"}
        if self._start.folder.is_dir():
            os.chdir(self._start.folder)  # relative paths in the experiment are the driver's
        with importing():
            from trimtab.executors.remote_worker import begin_remote  # imports torch, which reads the environment

        self._worker = begin_remote(self._start, self._notes.put)

    def lacks(self, wanted: Wanted) -> list[dict[str, str]]:
        """For each experiment the steps that this worker cannot do, each with the reason."""
        self.load()
        found: list[dict[str, str]] = self._worker.lacks(wanted)
        return found

    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[Note]]:
        """What a function gives, and the notes that came meanwhile."""
        self.load()
        return function(*arguments), self._taken()

    @ray.method(concurrency_group="notes")
    def notes(self) -> list[Note]:
        """The notes that came since the last call; answers while `call` is at work."""
        return self._taken()

    def _taken(self) -> list[Note]:
        notes = []
        with contextlib.suppress(queue.Empty):
            while True:
                notes.append(self._notes.get_nowait())
        return notes
