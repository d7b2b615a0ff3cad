"""Decodes the blocks of one step in several processes: this one and its helpers, the workers of a pool.

Several processes with few threads use a CPU better than one with many, whose threads wait for each other at every
operation; and each process can have a GPU of its own.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import RunError
from trimtab.executors.messages import Message, Task
from trimtab.executors.pool import Pool
from trimtab.records import Prompt
from trimtab.store.artifacts import Artifact
from trimtab.store.blocks import Decode, decode_blocks, finished, planned_blocks
from trimtab.store.progress import Advance

_log = logging.getLogger(__name__)


class Helpers:
    """`jobs` processes including this one, which share its `threads` while they decode."""

    def __init__(self, pool: Pool, experiment: Experiment, assets: Assets, jobs: int, threads: int) -> None:
        self._pool = pool
        self._experiment = experiment
        self._assets = assets
        self.jobs = jobs
        self._threads = threads
        self._ended = False

    def start(self) -> None:
        """Start the other processes if they are not running, so that they load their libraries early."""
        if not self._ended:
            self._pool.start()

    def end(self) -> None:
        """End the other processes for good: idle ones occupy memory."""
        self._ended = True
        self._pool.end()

    def decode(
        self, artifact: Artifact, label: str, prompts: Sequence[Prompt], size: int, decode: Decode, advance: Advance
    ) -> None:
        """Decode `prompts` in blocks into `artifact.work`, where finished blocks may exist already.

        The number of threads follows from the plan alone, so that a resumed step gives the same bytes.

        Raises:
            RunError: a helper could not decode its share; all finished blocks are kept.
        """
        blocks = planned_blocks(artifact.work, prompts, size)
        jobs = min(self.jobs, len(blocks))
        unfinished = [number for number in blocks if not finished(artifact.work, number)]
        shares = [share for first in range(jobs) if (share := unfinished[first::jobs])]
        if jobs < 2 or not shares:
            decode_blocks(artifact.work, blocks, decode, advance)
            return
        threads = max(self._threads // jobs, 1)
        for share in shares[1:]:
            self._pool.submit(task_for(artifact.digest, self._experiment, self._assets, threads, share, len(shares)))
        before = len(prompts) - sum(len(blocks[number]) for number in unfinished)
        done: dict[int, int] = {}
        running, failures = len(shares) - 1, list[str]()

        def report(worker: int, count: int) -> None:
            done[worker] = count
            advance(before + sum(done.values()), len(prompts))

        def receive(message: Message) -> None:
            nonlocal running
            if message.kind == "warning":
                _log.warning("%s", message.text)
            elif message.kind == "progress":
                report(message.worker, message.done)
            else:
                running -= 1
                failures.extend([message.text] if message.kind == "failed" else [])

        own = {number: blocks[number] for number in shares[0]}
        with thread_count(threads):
            decode_blocks(artifact.work, own, decode, lambda count, _: report(0, count), beside=len(shares))
        while running:
            self._pool.wait(receive)
        if failures:
            raise RunError(f"{label}: {failures[0]}")


def task_for(
    digest: str,
    experiment: Experiment,
    assets: Assets,
    threads: int,
    blocks: Sequence[int] | None = None,
    beside: int = 1,
) -> Task:
    """The task to make an artifact, or some blocks of it."""
    path_map = None if assets.path_map is None else str(assets.path_map)
    numbers = None if blocks is None else list(blocks)
    values = experiment.model_dump_json(exclude_unset=True)
    return Task(digest, values, threads, str(assets.cache), path_map, numbers, beside)


@contextlib.contextmanager
def helpers_for(folder: Path, experiment: Experiment, assets: Assets, jobs: int) -> Iterator[Helpers | None]:
    """The helpers of a run in `folder`, which end with it; None for one job."""
    if jobs < 2:
        yield None
        return
    threads = torch.get_num_threads()
    # this process uses the first device, its helpers the others
    with Pool(folder, range(2, jobs + 1), max(threads // jobs, 1)) as pool:
        yield Helpers(pool, experiment, assets, jobs, threads)


@contextlib.contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Set the number of threads of this process's operations for a `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
