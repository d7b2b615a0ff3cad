"""The driver's end of one Ray actor: an executor, as all workers are."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trimtab.executors.ray_actor import RayActor
from trimtab.executors.ray_cluster import Place
from trimtab.executors.ray_start import Start
from trimtab.executors.work import Work


@dataclass(frozen=True)
class Hear:
    """What is called, in Ray's threads, when an actor has said something.

    Args:
        greeting: with the worker and the future of its `Hello`.
        answer: with the worker, the future of what it was asked, and the one that the asker has.
        notes: with the future of a list of notes.
    """

    greeting: Callable[..., None]
    answer: Callable[..., None]
    notes: Callable[..., None]


class ActorWorker(Executor):
    """One actor, started anew by the next `submit` where it has died."""

    def __init__(self, place: Place, start: Start, hear: Hear) -> None:
        self.place, self._start, self._hear = place, start, hear
        self.sees = False
        self._making: Future[Any] | None = None
        self._asked: Future[Any] | None = None
        self._actor: Any = None
        hello = self.actor.hello.remote().future()
        hello.add_done_callback(lambda done: hear.greeting(self, done))
        self.actor.load.remote()

    @property
    def actor(self) -> Any:
        """The handle of the actor, which is started where there is none."""
        if self._actor is None:
            place = self.place
            kind = ray.remote(concurrency_groups={"notes": 1})(RayActor)
            self._actor = kind.options(
                name=f"{self._start.run.name}: {place.name}",
                num_cpus=place.cores,
                num_gpus=place.gpus,
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
            ).remote(self._start)
        return self._actor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        assert not kwargs, "actors are given positional arguments"
        outer: Future[Any] = Future()
        work = next((value for value in args if isinstance(value, Work)), None)
        name = "call" if work is None else _task_name(work)
        call = self.actor.call.options(name=name).remote(fn, *args).future()
        if work is not None and work.kind == "make":
            self._making = outer
        call.add_done_callback(lambda done: self._hear.answer(self, done, outer))
        return outer

    def ask_progress(self) -> None:
        """Have the notes of a training come; blocks bring theirs with them."""
        asked = self._asked is not None and not self._asked.done()
        if self._actor is None or self._making is None or self._making.done() or asked:
            return
        self._asked = self._actor.notes.remote().future()
        self._asked.add_done_callback(self._hear.notes)

    def end(self) -> None:
        """End the actor at once."""
        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(exceptions.RayError, ConnectionError):
                ray.kill(actor)


def _task_name(work: Work) -> str:
    """What Ray's dashboard calls a work."""
    return f"{work.step}: block {work.block}" if work.kind == "decode" else f"{work.step}: {work.kind}"
