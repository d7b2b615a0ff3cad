"""Workers on a Ray cluster: `--ray ADDRESS`. Each is an actor that keeps its models.

All that Ray reports is handled in one thread, one thing after the other: results, deaths, and what a look at the
cluster every second finds, such as nodes that came or went.
"""

import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
from ray import exceptions

from trimtab.errors import RunError, one_line
from trimtab.executors.actor_worker import ActorWorker, Hear
from trimtab.executors.local import perform
from trimtab.executors.packing import pack
from trimtab.executors.ray_cluster import Layout, Place, connected, living_nodes
from trimtab.executors.ray_start import Hello, Start, versions
from trimtab.executors.work import Setup, Wanted, WorkerDied
from trimtab.store.artifacts import Artifact
from trimtab.store.files import write_text

POLL_SECONDS = 1.0
"""Time between two looks at the cluster, and at the progress of trainings."""
START_SECONDS = 60.0
"""How long a run waits for all workers to start before it begins with those that have."""
DEATHS = (
    exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.ObjectLostError,
    exceptions.OutOfMemoryError, exceptions.ActorUnschedulableError, exceptions.RaySystemError, exceptions.RpcError,
)  # fmt: skip
"""What Ray raises where an actor, its node or what it gave back is lost."""
FULL = (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError)
Put = Callable[[object], None]
_log = logging.getLogger(__name__)


class RayWorkers:
    """One worker for each GPU of a cluster, or each share of its cores: at most `jobs`, with `threads` threads each.

    Without `jobs` and `threads`, nodes without GPUs have one worker with all cores. With `spread`, a worker takes all
    GPUs of its node.
    """

    perform = staticmethod(perform)

    def __init__(
        self, setup: Setup, address: str, jobs: int | None = None, threads: int | None = None, *, spread: bool = False
    ) -> None:
        self._setup, self._address, self._jobs = setup, address, jobs
        self._wanted_threads, self._spread = threads, spread
        self._layout: Layout | None = None
        self._token = setup.run / f".seen-{uuid.uuid4().hex[:12]}"
        self._put: Put = lambda event: None
        self._starting: dict[str, ActorWorker] = {}
        self._workers: dict[str, ActorWorker] = {}
        self._parcels: dict[str, Any] = {}
        self._refused: set[str] = set()  # nodes with other versions
        self._lost: RunError | None = None
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._handle_events, daemon=True)
        self._stack = contextlib.ExitStack()
        self._hear = Hear(self._later(self._admit), self._later(self._settle), self._later(self._pass_on))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(connected(self._address))
            self._layout = Layout.of(living_nodes(), self._jobs, self._wanted_threads, spread=self._spread)
            write_text(self._token, [])
            stack.callback(self._token.unlink)
            stack.callback(self._end_actors)
            self._look()
            self._await_first()
            self._stack = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._events.put(None)
        self._thread.join()
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    @property
    def threads(self) -> int:
        """The threads of each worker."""
        assert self._layout is not None, "not entered"
        return self._layout.cores

    def all(self) -> Mapping[str, Executor]:
        if self._lost is not None:
            raise self._lost
        return dict(self._workers)

    def listen(self, put: Put) -> None:
        self._put = put

    def work(self) -> None:
        return  # this process only drives

    def rest(self) -> None:
        return  # each worker has memory of its own, by which it was placed

    def parcel(self, artifact: Artifact) -> Any:
        """A reference to the artifact's files in the object store, where any worker does not see the run directory.

        Raises:
            RunError: the object store is full.
        """
        if all(worker.sees for worker in self._workers.values()):
            return None
        if artifact.digest not in self._parcels:
            try:
                self._parcels[artifact.digest] = ray.put(pack(artifact.folder))
            except FULL as error:
                raise _full(str(artifact.folder.name), error) from None
        return self._parcels[artifact.digest]

    def check(self, wanted: Wanted) -> None:
        """Raise RunError where no worker has the memory or the devices that a step needs, or one lacks a plug-in."""
        calls = {name: worker.actor.lacks.remote(wanted) for name, worker in list(self._workers.items())}
        answers = []
        for worker, call in calls.items():
            with contextlib.suppress(*DEATHS):
                try:
                    answers.append(ray.get(call))
                except exceptions.RayTaskError as error:  # such as a plug-in that is not installed there
                    raise RunError(f"{worker} cannot read the experiment: {one_line(str(error.cause))}") from None
        for number, (_, names) in enumerate(wanted):
            for name in names:
                reasons = [answer[number][name] for answer in answers if name in answer[number]]
                if reasons and len(reasons) == len(answers):
                    raise RunError(reasons[-1])

    def _later(self, call: Callable[..., None]) -> Callable[..., None]:
        """Has `call` called in the thread of events: Ray's own threads must not wait."""
        return lambda *arguments: self._events.put(partial(call, *arguments))

    def _handle_events(self) -> None:
        due = time.monotonic()
        while True:
            try:
                event = self._events.get(timeout=max(due - time.monotonic(), 0.001))
            except queue.Empty:
                event, due = self._look_again, time.monotonic() + POLL_SECONDS
            if event is None:
                return
            event()

    def _look_again(self) -> None:
        """Look for nodes that came or went, and for progress. Where the cluster is gone, the run ends."""
        try:
            self._look()
            for worker in self._workers.values():
                worker.ask_progress()
        except (exceptions.RayError, ConnectionError, RuntimeError) as error:
            self._lost = RunError(f"the Ray cluster at {self._address} is lost: {one_line(str(error))}")
            self._put(None)

    def _look(self) -> None:
        """Begin workers on new nodes, and forget those of nodes that are gone."""
        assert self._layout is not None
        nodes = {node["NodeID"]: node for node in living_nodes()}
        for workers in (self._workers, self._starting):
            for name in [name for name, worker in workers.items() if worker.place.node not in nodes]:
                _log.info("%s is gone with its node", name)
                del workers[name]
        known = {**self._workers, **self._starting}
        used = {worker.place.node for worker in known.values()} | self._refused
        for place in self._layout.places([node for key, node in nodes.items() if key not in used], known):
            if self._jobs is None or len(self._workers) + len(self._starting) < self._jobs:
                self._starting[place.name] = ActorWorker(place, self._start_of(place), self._hear)
        self._put(None)

    def _start_of(self, place: Place) -> Start:
        assert self._layout is not None
        return Start(
            place.name, self._setup.run.resolve(), self._token.resolve(), Path.cwd(), self._setup.assets.path_map,
            self._layout.cores, place.gpus, place.beside, place.memory,
        )  # fmt: skip

    def _await_first(self) -> None:
        """Wait until all workers have started, or some seconds have passed."""
        end = time.monotonic() + START_SECONDS
        while self._starting and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=left)
                assert event is not None
                event()
        if self._lost is not None:
            raise self._lost
        if not self._workers:
            _log.warning("the cluster has no free place for a worker yet: waiting for its cores or GPUs")

    def _admit(self, worker: ActorWorker, greeting: "Future[Hello]") -> None:
        """Use a worker from now on, if it has the same versions as this process."""
        name = worker.place.name
        if self._starting.pop(name, None) is None:
            return  # its node is gone
        error = greeting.exception()
        fault = _start_fault(error) if error is not None else versions_fault(greeting.result().versions)
        if fault:
            self._refused.add(worker.place.node)
            worker.end()
            if not self._thread.is_alive():
                self._lost = RunError(f"{name}: {fault}")
            _log.warning("%s is not used: %s", name, fault)
            return
        worker.sees = greeting.result().sees
        self._workers[name] = worker
        self._put(None)

    def _settle(self, worker: ActorWorker, call: "Future[Any]", outer: "Future[Any]") -> None:
        """Pass on what an actor gave back."""
        error = call.exception()
        cause = error.cause if isinstance(error, exceptions.RayTaskError) else error
        if error is None or cause is None:
            result, notes = call.result()
            for note in notes:
                self._put(note)
            outer.set_result(result)
        elif isinstance(cause, FULL):
            outer.set_exception(_full(worker.place.name, cause))
        elif cause is not error and not isinstance(cause, exceptions.RayError):
            outer.set_exception(cause)  # raised by what was called
        else:
            worker.end()
            self._look_again()  # before it is given anything else
            left = worker.place.name not in self._workers
            reason = "its node has left the cluster" if left else _reason(cause)
            outer.set_exception(WorkerDied(f"{worker.place.name} died: {reason}"))

    def _pass_on(self, notes: "Future[Any]") -> None:
        if notes.exception() is None:
            for note in notes.result():
                self._put(note)

    def _end_actors(self) -> None:
        for worker in [*self._workers.values(), *self._starting.values()]:
            worker.end()


def versions_fault(theirs: Mapping[str, str]) -> str:
    """Which versions of a worker differ from this process's, as a part of a sentence; empty where none do."""
    for name, here in versions().items():
        if theirs[name] != here:
            return f"{name} is {theirs[name]} there and {here} here: install the same version on both"
    return ""


def _start_fault(error: BaseException) -> str:
    """Why an actor could not start."""
    if "No module named 'trimtab'" in str(error):
        return "trimtab is not installed there: install the same version as here"
    return f"it could not start ({_last_line(error)})"


def _full(name: str, error: BaseException) -> RunError:
    return RunError(
        f"Ray's object store has no room for {name} ({_last_line(error)}): start Ray with a larger "
        "--object-store-memory, or have all nodes see the run directory"
    )


def _reason(error: BaseException) -> str:
    """Why a worker died whose node is still there, as far as Ray knows."""
    if isinstance(error, exceptions.ActorUnavailableError):
        return "it cannot be reached"
    if isinstance(error, exceptions.OutOfMemoryError):
        return "its node ran out of memory: take fewer workers (--jobs)"
    return _last_line(error)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
