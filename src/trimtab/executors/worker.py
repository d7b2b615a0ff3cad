"""The worker's side: performs one `Work` after another. What is loaded stays for the next one."""

import functools
import gc
import logging
import platform
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from trimtab.config.experiment import Experiment
from trimtab.errors import AssetError, TrimtabError
from trimtab.executors.collector import set_apart
from trimtab.executors.memory_errors import explain_memory_errors
from trimtab.executors.scratch import scratch_folder
from trimtab.executors.work import Decoded, Made, Note, PutNote, Result, Setup, Work, WorkerFault
from trimtab.models.allocator import give_back_freed_memory
from trimtab.models.hardware import DTYPE_BYTES, default_device
from trimtab.models.load import quiet_libraries
from trimtab.pipeline.experiment_steps import steps
from trimtab.pipeline.make import StepMaker, named
from trimtab.pipeline.step import Decoding, Identities, Step
from trimtab.pipeline.traces import trace_of
from trimtab.pipeline.workspace import Workspace
from trimtab.records import Prompt
from trimtab.search.trace import Trace
from trimtab.store.blocks import Block, Plan, Within, joined

NOTE_SECONDS = 0.5
"""The shortest time between two notes on a block."""
_log = logging.getLogger(__name__)


class Worker:
    """Keeps models, rewards and the step that it decodes from one `Work` to the next."""

    def __init__(self, setup: Setup, put: PutNote) -> None:
        self._put = put
        self._assets = setup.assets
        self._identities = Identities(self._assets)
        self._maker = StepMaker(Workspace(self._assets), setup.run)
        self._steps = functools.cache(_steps)
        self._opened: tuple[tuple[str, bool], Decoding, Trace | None] | None = None
        self._scratch = scratch_folder()

    def perform(self, work: Work) -> Result:
        """Do what `work` asks for.

        Raises:
            TrimtabError: anything that a user can mend.
        """
        torch.set_num_threads(work.threads)
        experiment, by_name = self._steps(work.experiment)
        step = by_name[work.step]
        with explain_memory_errors([step], experiment, self._assets, work.jobs), quiet_libraries():
            if work.kind == "make":
                return self._make(step, work)
            decoding, trace = self._decoding(step, work)
            if work.kind == "open":
                return Plan.of(len(decoding.prompts), decoding.block_size)
            start, done = work.block * work.size, list[Block]()
            with named(step):
                for part, within in _parts(decoding, decoding.prompts[start : start + work.size], self._within(work)):
                    done.append(decoding.decode(part, within=within))
                block = joined(done)
                block = block if decoding.finish is None else decoding.finish(block)
            return Decoded(block, device_name(work.threads), "" if trace is None else _taken(trace.path))

    def _within(self, work: Work) -> Within:
        """Puts notes on how far a block is; not one for each token, since notes travel between processes."""
        last = time.monotonic()

        def within(share: float) -> None:
            nonlocal last
            if time.monotonic() - last >= NOTE_SECONDS:
                last = time.monotonic()
                self._put(Note(work.artifact.digest, share, block=work.block))

        return within

    def _make(self, step: Step, work: Work) -> Made:
        self._close()
        self._check(step, work)

        def advance(done: float, total: int) -> None:
            self._put(Note(work.artifact.digest, done, total))

        self._maker.make(step, work.artifact, work.inputs, advance, work.jobs)
        gc.collect()  # models hold reference cycles, and what comes next may need their memory
        return Made(device_name(work.threads))

    def _decoding(self, step: Step, work: Work) -> tuple[Decoding, Trace | None]:
        """The open step; another one is closed first, so that its models can be freed."""
        key = work.artifact.digest, work.traced
        if self._opened is None or self._opened[0] != key:
            self._close()
            self._check(step, work)
            file = Path(self._scratch.name) / "trace.jsonl"
            trace = trace_of(step, file) if work.traced else None
            decoding = self._maker.decoding(step, work.artifact, work.inputs, work.jobs, trace)
            self._opened = key, decoding, trace
        return self._opened[1:]

    def rest(self) -> None:
        """Free all language models."""
        self._close()
        self._maker.workspace.empty()
        give_back_freed_memory()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened = None
            gc.collect()

    def _check(self, step: Step, work: Work) -> None:
        """Raise AssetError if a name stands for other files here than where the run was planned."""
        here, planned = self._identities.of(step), work.artifact.made_from["configuration"]
        for name, value in here.items():
            if value != planned.get(name):
                raise AssetError(_difference(step, name.removesuffix(" is"), value, planned.get(name)))


def _difference(step: Step, part: str, here: Any, there: Any) -> str:
    """What a part of a step stands for here, and where the run began."""
    if isinstance(here, list) and isinstance(there, list) and here[:-1] == there[:-1] and here[-1] in DTYPE_BYTES:
        return (
            f"the model of {part} in {step.name} computes in {here[-1]} here and in {there[-1]} where the run began: "
            "set its dtype"
        )
    return (
        f"{part} of {step.name} stands for other files ({here}) than where the run began ({there}): put the same files "
        "on both machines"
    )


def _steps(experiment: str) -> tuple[Experiment, dict[str, Step]]:
    read = Experiment.model_validate_json(experiment)
    return read, {step.name: step for step in steps(read)}


def _taken(file: Path) -> str:
    """The text of a file, which is deleted; nothing where there is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    file.unlink()
    return text


@functools.cache
def device_name(threads: int) -> str:
    """What a worker computes on, in words. Equal bytes can be expected of workers with equal names only."""
    if default_device().type == "cuda":
        return torch.cuda.get_device_name()
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    processor = platform.processor() or platform.machine() if found is None else found[1]
    return f"{processor}, {threads} {'thread' if threads == 1 else 'threads'}"


_worker: Worker | None = None


def begin(worker: Worker) -> None:
    """Make this process a worker."""
    global _worker
    _worker = worker
    set_apart()


def _parts(decoding: Decoding, block: Sequence[Prompt], within: Within) -> Iterator[tuple[Sequence[Prompt], Within]]:
    """The prompts of a block; in parts where it was cut for more rows than there are to be now, since memory ran out.

    With each part comes what is told how far it is.
    """
    for first in range(0, len(block), decoding.block_size):
        part = block[first : first + decoding.block_size]
        yield part, functools.partial(_of_all, within, first / len(block), len(part) / len(block))


def _of_all(within: Within, before: float, part: float, share: float) -> None:
    within(before + part * share)


def perform(work: Work) -> Result:
    """Do a `Work` in this process, which `begin` has made a worker."""
    assert _worker is not None, "this process is no worker"
    return _worker.perform(work)


def rest_now() -> None:
    """Have this process free its models."""
    assert _worker is not None, "this process is no worker"
    _worker.rest()


def perform_apart(work: Work) -> Result:
    """As `perform`, in a process of its own: a fault of trimtab's is logged here, and comes back as one line."""
    try:
        return perform(work)
    except TrimtabError:
        raise
    except Exception as error:  # noqa: BLE001 (the driver reports it, and other steps go on)
        _log.error("unexpected error in %s", work.step, exc_info=True)
        raise WorkerFault(f"{type(error).__name__}: {error} (the worker's log has the traceback)") from None
