"""Who makes a study's artifacts: this process, one after another, or several processes side by side.

Both make what they are given whenever they are waited for. Knows nothing of which artifact comes next.

    >>> hands = Here(plan, directory, assets)                                           # doctest: +SKIP
    >>> hands.take(task, run)                                                           # doctest: +SKIP
    >>> hands.wait(print)                                                               # doctest: +SKIP
    Event(digest='0123456789ab', kind='made', text='', done=0, total=0)
"""

import logging
from typing import Protocol

from trimtab.assets.resolve import Assets
from trimtab.errors import TrimtabError
from trimtab.executors.chosen import Part, Task, make_artifact
from trimtab.executors.helpers import order_of
from trimtab.executors.messages import Event, Tell, listening
from trimtab.executors.pool import Pool
from trimtab.store.artifacts import RunDirectory
from trimtab.study.study_file import Run, Study

_log = logging.getLogger(__name__)


class Hands(Protocol):
    """What makes artifacts."""

    def free(self) -> bool:
        """Whether a further task can be taken."""

    def take(self, task: Task, run: Run) -> None:
        """Make the task's artifact, as the run's experiment has it."""

    def wait(self, tell: Tell) -> None:
        """Until something is heard of a task that was taken; `tell` is told of it."""


class Here:
    """Makes one artifact at a time, in this process, while it is waited for."""

    def __init__(self, study: Study, directory: RunDirectory, assets: Assets) -> None:
        self._study = study
        self._directory = directory
        self._assets = assets
        self._taken: tuple[str, Run] | None = None

    def free(self) -> bool:
        return self._taken is None

    def take(self, task: Task, run: Run) -> None:
        self._taken = (task.artifact.digest, run)

    def wait(self, tell: Tell) -> None:
        assert self._taken is not None
        digest, run = self._taken
        watch = listening(digest, tell)
        try:
            decoders = self._study.decoders(run)
            make_artifact(digest, Part(run.experiment, decoders, self._directory, self._assets, watch))
        except TrimtabError as error:
            tell(Event(digest, "failed", str(error)))
        except Exception as error:  # noqa: BLE001 (a fault of ours in one cell must not take the others with it)
            _log.error("%s ended by a fault", run.name, exc_info=True)
            tell(Event(digest, "failed", f"{type(error).__name__}: {error} (log.txt has more)"))
        else:
            tell(Event(digest, "made"))
        self._taken = None


class Others:
    """The workers of a pool, each with so many threads; `beside` of them share a device."""

    def __init__(self, study: Study, pool: Pool, assets: Assets, threads: int, beside: int) -> None:
        self._study = study
        self._pool = pool
        self._assets = assets
        self._threads = threads
        self._beside = beside

    def free(self) -> bool:
        return self._pool.free()

    def take(self, task: Task, run: Run) -> None:
        decoders = self._study.decoders(run)
        order = order_of(
            task.artifact.digest, run.experiment, decoders, self._assets, self._threads, beside=self._beside
        )
        self._pool.take(order)

    def wait(self, tell: Tell) -> None:
        self._pool.wait(tell)
