"""The driver's side: gives steps and their blocks to workers, and writes what they give back.

A worker stays with a step while that has open blocks, so that its models stay loaded; a free worker takes the first
step that nobody works on, or else helps where most blocks are open. A worker that dies costs its block or step, which
is given out again.
"""

import dataclasses
import graphlib
import itertools
import logging
import queue
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from typing import Any

from trimtab.errors import RunError, TakenOverError, TrimtabError
from trimtab.executors.open_step import OpenStep
from trimtab.executors.tasks import Manner, Task
from trimtab.executors.work import Decoded, Note, Result, Unfit, Work
from trimtab.executors.workers import Workers
from trimtab.store.artifacts import RunDirectory
from trimtab.store.progress import Watch

MAX_AGAIN = 3
"""How often a block or a step is given out again after its worker has died."""
_log = logging.getLogger(__name__)


@dataclass
class _Running:
    """A worker and what it does now."""

    worker: str
    open_step: OpenStep
    work: Work


class Driver:
    """Carries out tasks, each once its inputs are there; earlier tasks come first."""

    def __init__(
        self, tasks: Sequence[Task], directory: RunDirectory, workers: Workers, watch: Watch, manner: Manner
    ) -> None:
        self._tasks: dict[str, Task] = {}
        self._twins: dict[str, list[Task]] = {}  # decoders with equal settings share their generations
        for task in tasks:
            if self._tasks.setdefault(task.artifact.digest, task) is not task:
                self._twins.setdefault(task.artifact.digest, []).append(task)
        self._position = {digest: index for index, digest in enumerate(self._tasks)}
        self._directory, self._workers, self._watch, self._manner = directory, workers, watch, manner
        self._needs = {
            digest: {made.digest for made in task.inputs.values() if made.digest in self._tasks}
            for digest, task in self._tasks.items()
        }
        self._sorter = graphlib.TopologicalSorter(self._needs)
        self._finished: set[str] = set()
        self._ready: list[Task] = []  # those whose inputs were finished last come first
        self._open: dict[str, OpenStep] = {}
        self._running: dict[Future[Result], _Running] = {}
        self._last: dict[str, str] = {}  # the step that each worker worked on last
        self._unfit: dict[tuple[str, str], Unfit] = {}  # worker and step: what the worker lacks for it
        self._again: dict[tuple[str, str, int], int] = {}
        self._failed: dict[str, Exception] = {}
        self._devices: list[str] = []
        self._thread = threading.current_thread()
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self) -> dict[str, Exception]:
        """Make all that is missing and can be made.

        Returns:
            The digests of the tasks that failed, each with its error. What would be made from them is not tried.
        """
        self._sorter.prepare()
        self._workers.listen(self._put)
        try:
            while True:
                self._find_ready()
                self._give_out()
                if not self._running:
                    self._fail_unfit()
                    if not (self._ready or self._open):
                        self._check_end()
                        return self._failed
                self._workers.work()
                self._handle(self._events.get())
        except BaseException as error:
            for step in self._open.values():
                step.abandon(error)
            self._watch.stop()  # a signal may come while a step begins, before it counts as open
            raise

    def _put(self, event: object) -> None:
        """Take an event from any thread; a note of a worker in this thread, which waits for it, is handled at once."""
        if isinstance(event, Note) and threading.current_thread() is self._thread:
            self._handle(event)
        else:
            self._events.put(event)

    def _find_ready(self) -> None:
        """Take the tasks whose inputs are made; of these, what is made already is used again."""
        while new := self._sorter.get_ready():
            fresh = []
            for task in sorted((self._tasks[digest] for digest in new), key=self._place):
                if task.artifact.whole:
                    self._watch.used_again(task.name)
                    self._directory.tidy(task.artifact)
                    self._complete(task)
                else:
                    fresh.append(task)
            self._ready = fresh + self._ready

    def _place(self, task: Task) -> int:
        return self._position[task.artifact.digest]

    def _complete(self, task: Task) -> None:
        """The artifact is whole: a searched step may lack traces, all else is done."""
        self._manner.made(task)
        for twin in self._twins.get(task.artifact.digest, []):
            self._watch.used_again(twin.name)
            self._manner.made(twin)
        step = OpenStep.for_traces(task, self._directory, self._watch, self._manner) if self._manner.traced else None
        if step is None:
            self._done(task.artifact.digest)
        else:
            self._open[task.artifact.digest] = step

    def _done(self, digest: str) -> None:
        self._sorter.done(digest)
        self._finished.add(digest)

    def _check_end(self) -> None:
        """Every task was made, or failed, or needs one that failed: no run may end well without its last steps."""
        lost = set(self._failed)
        for digest in graphlib.TopologicalSorter(self._needs).static_order():
            if lost & self._needs[digest]:
                lost.add(digest)
        left = self._tasks.keys() - self._finished - lost
        assert not left, [self._tasks[digest].name for digest in left]

    def _give_out(self) -> None:
        """Give work to every idle worker, as long as there is any."""
        busy = {running.worker for running in self._running.values()}
        for name, worker in self._workers.all().items():
            if name not in busy and (chosen := self._next(name)) is not None:
                self._submit(name, worker, *chosen)

    def _next(self, worker: str) -> tuple[OpenStep, Work] | None:
        """What to give to a worker: more of its step, a step that nobody works on, or blocks that others have open."""
        own = self._open.get(self._last.get(worker, ""))
        at_work = {running.open_step.task.artifact.digest for running in self._running.values()}
        untouched = (step for digest, step in self._open.items() if digest not in at_work)
        begun = itertools.chain([] if own is None else [own], untouched)
        for step in itertools.chain(begun, self._begin_ready(), self._most_waiting()):
            if (worker, step.task.artifact.digest) not in self._unfit and (work := step.take()) is not None:
                return step, work
        return None

    def _most_waiting(self) -> Iterable[OpenStep]:
        """All open steps, that with most waiting blocks first; a generator, since beginning a task may open others."""
        yield from sorted(self._open.values(), key=lambda step: -step.waiting)

    def _begin_ready(self) -> Iterable[OpenStep]:
        """Begin the first ready task, if any; a generator, so that nothing begins unless it is asked for."""
        while self._ready:
            task = self._ready.pop(0)
            step = OpenStep.begun(task, self._directory, self._watch, self._manner)
            self._open[task.artifact.digest] = step
            if step.over:  # all blocks had been decoded before
                self._finish(step)
                self._find_ready()  # what is made from it
            else:
                yield step

    def _submit(self, name: str, worker: Executor, step: OpenStep, work: Work) -> None:
        digest = step.task.artifact.digest
        parcels = {made.folder.name: self._workers.parcel(made) for made in work.inputs.values()}
        self._last[name] = digest
        step.workers.append(name)
        future = worker.submit(self._workers.perform, dataclasses.replace(work, parcels=parcels))
        self._running[future] = _Running(name, step, work)
        future.add_done_callback(self._put)
        self._show(step)

    def _handle(self, event: Any) -> None:
        if isinstance(event, Note):
            if event.warning:
                _log.warning("%s", event.warning)
            elif event.digest in self._open:
                self._open[event.digest].hear(event)
        elif isinstance(event, Future):
            running = self._running.pop(event)
            running.open_step.workers.remove(running.worker)
            self._show(running.open_step)
            self._settle(running, event)
        else:  # workers came or went; one that comes again may have what it lacked
            present = self._workers.all()
            self._unfit = {key: lacks for key, lacks in self._unfit.items() if key[0] in present}

    def _settle(self, running: _Running, future: "Future[Result]") -> None:
        """Take what a worker gave back: a result, or the reason why there is none."""
        step, work, error = running.open_step, running.work, future.exception()
        digest = step.task.artifact.digest
        if isinstance(error, Unfit):
            self._unfit[running.worker, digest] = error
        if error is None:
            try:
                step.receive(work, future.result())
                self._note_device(future.result())
            except TrimtabError as problem:  # such as a full disk
                self._fail(step, problem)
        elif isinstance(error, BrokenExecutor) and digest not in self._failed and self._may_go_again(digest, work):
            _log.warning("%s: %s; what it worked on is given out again", step.task.name, error)
            step.put_back(work)
        elif isinstance(error, Unfit) and digest not in self._failed and self._others_may(digest):
            _log.warning("%s", error)
            step.put_back(work)
        elif isinstance(error, Exception):
            step.fail()
            again = f"; it was given out {MAX_AGAIN + 1} times" if isinstance(error, BrokenExecutor) else ""
            self._fail(step, RunError(f"{error}{again}") if again else error)
        else:
            raise error
        if step.over:
            self._finish(step)

    def _fail_unfit(self) -> None:
        """Fail the open steps for which every worker that there is now lacks something, since others may have left."""
        workers = self._workers.all()
        for digest, step in [*self._open.items()]:
            lacks = [self._unfit.get((worker, digest)) for worker in workers]
            if lacks and lacks[0] is not None and None not in lacks:
                self._fail(step, lacks[0])
                self._finish(step)

    def _others_may(self, digest: str) -> bool:
        """Whether there is a worker that has not said yet that it lacks what a step needs."""
        return any((worker, digest) not in self._unfit for worker in self._workers.all())

    def _may_go_again(self, digest: str, work: Work) -> bool:
        key = digest, work.kind, work.block
        self._again[key] = self._again.get(key, 0) + 1
        return self._again[key] <= MAX_AGAIN

    def _note_device(self, result: Result) -> None:
        if isinstance(result, Decoded) and result.device not in self._devices:
            self._devices.append(result.device)
            if len(self._devices) == 2:
                _log.warning(
                    "blocks are decoded by unlike devices (%s; %s), whose last digits differ, and so some texts do; "
                    "plan.json of each artifact names them", *self._devices,
                )  # fmt: skip

    def _fail(self, step: OpenStep, error: Exception) -> None:
        """No more of this step is given out; blocks that other workers decode now are kept."""
        digest = step.task.artifact.digest
        if digest not in self._failed:
            self._failed[digest] = error
            step.stop()
            if self._running:
                self._watch.print(f"{step.task.name} failed ({error}): finishing what other workers do now")

    def _finish(self, step: OpenStep) -> None:
        """A step of which nothing is open any more: seal its artifact, or leave what there is after a failure."""
        task = step.task
        digest = task.artifact.digest
        del self._open[digest]
        if digest not in self._failed:
            try:
                step.finish()
            except TakenOverError:  # it concerns every step
                raise
            except TrimtabError as error:
                self._failed[digest] = error
        else:
            self._failed[digest] = step.abandon(self._failed[digest])
        if digest in self._failed:
            self._watch.end(step.name, "failed")
            return
        self._watch.end(step.name, "made")
        if step.traces_only or self._manner.shard is not None:
            self._done(digest)
        else:
            self._complete(task)

    def _show(self, step: OpenStep) -> None:
        if len(self._workers.all()) > 1:
            self._watch.working(step.name, step.workers)
