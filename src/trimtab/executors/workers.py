"""The workers of a run: each is a `concurrent.futures.Executor` that does one thing at a time and keeps its models.

`InProcess` is this process alone; `trimtab.executors.local` starts processes on this machine, and
`trimtab.executors.ray_workers` actors on a cluster.
"""

import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from trimtab.executors.collector import setting_apart
from trimtab.executors.work import Result, Setup, Wanted, Work
from trimtab.executors.worker import Worker
from trimtab.store.artifacts import Artifact
from trimtab.store.stopping import chain_of, stopping

Put = Callable[[object], None]


class Workers(Protocol):
    """All workers of a run, started on entering and ended on leaving: at once where an error left the block.

    `worker.submit(workers.perform, work)` begins a `Work`. A future of a worker that has died raises `WorkerDied`; the
    next `submit` starts the worker anew.
    """

    @property
    def perform(self) -> Callable[[Work], Result]:
        """The function to submit."""

    @property
    def threads(self) -> int | None:
        """The threads of each worker; None where `Work.threads` may give any number."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def all(self) -> Mapping[str, Executor]:
        """The workers that there are now, by name. They come and go with the machines of a cluster."""

    def listen(self, put: Put) -> None:
        """Call `put` with each `Note` of a worker, and with None where the workers have changed; from any thread."""

    def work(self) -> None:
        """Do this process's share of what was submitted."""

    def rest(self) -> None:
        """Have all workers free their models, since a training in one of them needs the machine's memory."""

    def check(self, wanted: Wanted) -> None:
        """Raise RunError where no worker has the memory or the devices for a step."""

    def parcel(self, artifact: Artifact) -> Any:
        """How a worker that does not see the run directory gets a finished artifact; None where all see it."""


class InProcess(Executor):
    """This process as the only worker: `work` does what was submitted."""

    def __init__(self, setup: Setup) -> None:
        self._put: Put = lambda event: None
        self._submitted: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._worker = Worker(setup, lambda note: self._put(note))
        self.perform = self._worker.perform
        self._apart = setting_apart()

    def __enter__(self) -> Self:
        self._apart.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._apart.__exit__(None, None, None)

    def all(self) -> Mapping[str, Executor]:
        return {"this process": self}

    threads = None

    def listen(self, put: Put) -> None:
        self._put = put

    def rest(self) -> None:
        return  # a training frees the models of its own process

    def check(self, wanted: Wanted) -> None:
        return  # the driver has compared this machine

    def parcel(self, artifact: Artifact) -> None:
        return

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._submitted.append((future, partial(fn, *args, **kwargs)))
        return future

    def work(self) -> None:
        while self._submitted:
            future, call = self._submitted.pop(0)
            try:
                with stopping():
                    future.set_result(call())
            except Exception as error:  # noqa: BLE001 (as every executor does: whoever asks for the result gets it)
                for each in chain_of(error):  # a study keeps the error, whose frames would keep the step's models
                    traceback.clear_frames(each.__traceback__)
                future.set_exception(error)
