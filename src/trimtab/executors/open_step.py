"""A step that workers work on: what is still to be given out, and what becomes of what they give back."""

import contextlib
from collections import deque
from pathlib import Path
from typing import Literal, Self, TypeVar

from trimtab.executors.packing import unpack
from trimtab.executors.tasks import Manner, Task
from trimtab.executors.work import Decoded, Made, Note, Result, Work
from trimtab.pipeline.merge import note_shard, plan_of_shards
from trimtab.pipeline.traces import blocks_without_trace, is_searched, trace_file
from trimtab.store import blocks
from trimtab.store.artifacts import RunDirectory
from trimtab.store.files import append_text, empty_folder
from trimtab.store.progress import Watch

ErrorT = TypeVar("ErrorT", bound=BaseException)


class OpenStep:
    """A task that has begun and is not over. `workers` are the names of those that work on it now.

    With `traces_only` the artifact is whole, and blocks are decoded again for the steps of their searches.
    """

    def __init__(self, task: Task, directory: RunDirectory, watch: Watch, manner: Manner, name: str) -> None:
        self.task, self.name, self.workers = task, name, list[str]()
        self.traces_only = False
        self.advance = watch.begin(name)
        self._directory, self._manner = directory, manner
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None
        self._plan: blocks.Plan | None = None
        self._waiting: deque[int] = deque()  # blocks to give out
        self._asked = False  # whether the whole step, or the question how it is cut into blocks, was given out
        self._over = False  # whether there is nothing more to give out
        self._at_work = 0
        self._done = self._total = 0  # prompts
        self._within: dict[int, float] = {}  # of the blocks that workers have: how many of their prompts are done

    @classmethod
    def begun(cls, task: Task, directory: RunDirectory, watch: Watch, manner: Manner) -> Self:
        """Begin a task whose artifact is not whole."""
        plan = _known_plan(task) if task.step.decodes else None
        step = cls(task, directory, watch, manner, task.name)
        if manner.shard is not None:
            step._stack.enter_context(directory.working(task.artifact, manner.shard))
        else:
            step._folder = step._stack.enter_context(directory.writing(task.artifact))
        if plan is not None:
            step._cut(plan)
        return step

    @classmethod
    def for_traces(cls, task: Task, directory: RunDirectory, watch: Watch, manner: Manner) -> Self | None:
        """The blocks of a whole artifact whose searches are not in its trace; None where there are none."""
        if not is_searched(task.step):
            return None
        missing = blocks_without_trace(task.step, task.artifact, _trace_file(directory, task))
        if not missing:
            return None
        step = cls(task, directory, watch, manner, f"{task.name} (trace)")
        step.traces_only = True
        plan = step._plan = blocks.recorded_plan(task.artifact.folder)
        assert plan is not None, task.artifact.folder
        step._waiting.extend(missing)
        step._total = sum(map(plan.size_of, missing))
        step.advance(0, step._total)
        return step

    @property
    def waiting(self) -> int:
        """How many blocks can be given out."""
        return len(self._waiting)

    @property
    def over(self) -> bool:
        """Whether nothing is to be given out, and nobody works on it."""
        return self._at_work == 0 and not self._waiting and (self._over or self._plan is not None)

    def take(self) -> Work | None:
        """What to give to a worker next; None where all is given out."""
        if self._plan is not None:
            work = self._work("decode", self._waiting.popleft()) if self._waiting else None
            self._within |= {} if work is None else {work.block: 0.0}
        elif not self._asked:
            self._asked = True
            work = self._work("open" if self.task.step.decodes else "make")
        else:
            work = None
        self._at_work += work is not None
        return work

    def put_back(self, work: Work) -> None:
        """Take back what a worker that died was given."""
        self._at_work -= 1
        if work.kind == "decode":
            self._waiting.append(work.block)  # behind the others, which it must not keep from being decoded
            self._within.pop(work.block, None)
        else:
            self._asked = False
            if self._folder is not None:  # it may be half filled
                empty_folder(self._folder)

    def receive(self, work: Work, result: Result) -> None:
        """Write what a worker gave back.

        Raises:
            RunError: the disk is full.
        """
        self._at_work -= 1
        if isinstance(result, blocks.Plan):
            self._cut(result)
        elif isinstance(result, Made):
            assert self._folder is not None
            self._over = True
            if result.files is not None:
                unpack(result.files, self._folder)
        else:
            self._receive_block(work, result)

    def _receive_block(self, work: Work, result: Decoded) -> None:
        if result.trace:
            append_text(_trace_file(self._directory, self.task), result.trace)
        assert self._plan is not None
        if not self.traces_only:
            folder, device = self.task.artifact.work, result.device
            blocks.write_block(folder, self._plan, work.block, result.block, device, self._manner.jobs)
        self._done += self._plan.size_of(work.block)
        self._within.pop(work.block, None)
        self.advance(self._done + sum(self._within.values()), self._total)

    def hear(self, note: Note) -> None:
        """Show how far a worker is with the whole step, or with a block that it still has."""
        if note.block is None:
            self.advance(note.done, note.total)
        elif note.block in self._within and self._plan is not None:
            self._within[note.block] = note.done * self._plan.size_of(note.block)
            self.advance(self._done + sum(self._within.values()), self._total)

    def stop(self) -> None:
        """Give out no more: the task has failed."""
        self._waiting.clear()
        self._asked = self._over = True

    def fail(self) -> None:
        """Note that a worker failed to do what it was given."""
        self._at_work -= 1

    def finish(self) -> None:
        """All is done: seal the artifact, unless it is whole already or shards share it.

        Raises:
            RunError: the disk is full.
        """
        if self._folder is not None and self.task.step.decodes:
            blocks.merge_blocks(self.task.artifact.work, self._folder)
        self._stack.close()

    def abandon(self, error: ErrorT) -> "ErrorT | Exception":
        """Leave the step open for a later session; gives the error as the user is to see it."""
        try:
            self._stack.__exit__(type(error), error, error.__traceback__)
        except Exception as explained:  # noqa: BLE001 (the run directory explains errors of writing)
            return explained
        return error

    def _cut(self, plan: blocks.Plan) -> None:
        """The plan is known: note it, and give out the blocks that are not finished."""
        artifact, shard = self.task.artifact, self._manner.shard
        if shard is None:
            plan = blocks.ensure_plan(artifact.work, plan.prompts, plan.prompts_a_block)
        else:
            note_shard(artifact, self.task.step.name, shard, plan)
        self._plan = plan
        own = [number for number in range(plan.blocks) if shard is None or shard.owns(number)]
        self._waiting.extend(number for number in own if not blocks.finished(artifact.work, plan, number))
        self._total = sum(map(plan.size_of, own))
        self._done = self._total - sum(map(plan.size_of, self._waiting))
        self.advance(self._done, self._total)

    def _work(self, kind: Literal["open", "decode", "make"], block: int = 0) -> Work:
        task, manner = self.task, self._manner
        size = 0 if self._plan is None else self._plan.prompts_a_block
        return Work(
            kind, task.experiment, task.step.name, task.artifact, task.inputs, manner.threads, manner.jobs, block, size,
            traced=(manner.traced or self.traces_only) and is_searched(task.step),
        )  # fmt: skip


def _known_plan(task: Task) -> blocks.Plan | None:
    """How earlier sessions or shards have cut the prompts into blocks; None where this one decides."""
    return blocks.recorded_plan(task.artifact.work) or plan_of_shards(task.artifact)


def _trace_file(directory: RunDirectory, task: Task) -> Path:
    return trace_file(directory.path, task.step.parts["decoder"].name, task.artifact.digest)
