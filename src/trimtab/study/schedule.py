"""What can be made next, and what never will: the order of a plan's tasks, and what a failure takes with it.

Knows nothing of processes.

    >>> schedule = Schedule(plan)                                                       # doctest: +SKIP
    >>> schedule.next().stage                                                           # doctest: +SKIP
    'data'
"""

from trimtab.executors.chosen import Task
from trimtab.study.plan import Plan


class Schedule:
    """A task is ready when all that it is made from is whole. `failures` has a line for each task that has failed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._whole = {digest for digest, task in plan.tasks.items() if task.artifact.whole}
        self._open = [digest for digest in plan.tasks if digest not in self._whole]
        self._running: set[str] = set()
        self.failures: dict[str, str] = {}

    def next(self) -> Task | None:
        """A ready task, which runs from now on; the first in the plan's order, which goes through run after run."""
        for digest in self._open:
            task = self._plan.tasks[digest]
            if self._whole.issuperset(task.inputs):
                self._open.remove(digest)
                self._running.add(digest)
                return task
        return None

    def made(self, digest: str) -> None:
        self._running.remove(digest)
        self._whole.add(digest)

    def failed(self, digest: str, why: str) -> None:
        """The task has failed; all that would be made from it is given up."""
        self._running.remove(digest)
        self.failures[digest] = why
        lost = {digest}
        for other in list(self._open):  # inputs come before what is made from them
            if lost.intersection(self._plan.tasks[other].inputs):
                lost.add(other)
                self._open.remove(other)

    @property
    def ended(self) -> bool:
        return not self._running and not self._open

    def whole(self, run: str) -> bool:
        """Whether all that the run needs is there."""
        return self._whole.issuperset(self._plan.artifacts[run].values())

    def reasons(self) -> dict[str, str]:
        """Of each run that lacks something because a task failed: which stage, and why."""
        found = {}
        for run, artifacts in self._plan.artifacts.items():
            for stage, digest in artifacts.items():
                if digest in self.failures:
                    found[run] = f"{stage}: {self.failures[digest]}"
                    break
        return found
