"""Decoding shared out among processes on one machine: this one and its helpers take blocks of a stage side by side.

Several processes of few threads use a CPU better than one of many, whose threads wait for each other at every
operation; and each of them can have an accelerator of its own. Knows nothing of what is decoded.

    >>> with helping(Path("runs/demo"), experiment, Assets(), jobs=2) as helpers:       # doctest: +SKIP
    ...     helpers.decode(artifact, "guide base", prompts, 16, decode, advance)
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.errors import RunError
from trimtab.executors.messages import Event, Order
from trimtab.executors.pool import Pool
from trimtab.records import Prompt
from trimtab.store.artifacts import Artifact
from trimtab.store.blocks import Decode, decode_groups, finished, planned_groups, sharing_time
from trimtab.store.progress import Advance

_log = logging.getLogger(__name__)


class Helpers:
    """`jobs` processes, this one among them; they share out its `threads` wherever there are blocks for several."""

    def __init__(self, pool: Pool, experiment: Experiment, assets: Assets, jobs: int, threads: int) -> None:
        self._pool = pool
        self._experiment = experiment
        self._assets = assets
        self.jobs = jobs
        self._threads = threads
        self._ended = False

    def start(self) -> None:
        """Start the other processes, if they do not run: they load their libraries while this one does other work."""
        if not self._ended:
            self._pool.start()

    def end(self) -> None:
        """End the other processes for good: nothing more is to be decoded, and idle ones hold memory."""
        self._ended = True
        self._pool.end()

    def decode(
        self, artifact: Artifact, label: str, prompts: Sequence[Prompt], size: int, decode: Decode, advance: Advance
    ) -> None:
        """Decode `prompts` in blocks into `artifact.work`, and record how they are cut.

        How many threads a process has follows from the plan alone, whatever is found there: so a stage that was killed
        ends in the same bytes.

        Raises:
            RunError: a helper could not decode its share; what is done is kept.
        """
        groups = planned_groups(artifact.work, prompts, size)
        jobs = min(self.jobs, len(groups))
        left = [number for number in groups if not finished(artifact.work, number)]
        shares = [share for share in (left[first::jobs] for first in range(jobs)) if share]
        if jobs < 2 or not shares:
            decode_groups(artifact.work, groups, decode, advance)
            return
        threads = max(self._threads // jobs, 1)
        for share in shares[1:]:
            self._pool.take(order_of(artifact.digest, self._experiment, self._assets, threads, share, len(shares)))
        progress = _Progress(len(prompts), sum(len(groups[number]) for number in left), advance)
        own = {number: groups[number] for number in shares[0]}
        with with_threads(threads):
            decode_groups(artifact.work, own, sharing_time(decode, len(shares)), lambda done, _: progress.tell(0, done))
        failures = _wait(self._pool, len(shares) - 1, progress)
        if failures:
            raise RunError(f"{label}: {failures[0]}")


class _Progress:
    """How many of `total` prompts are done, of which `left` were not when several processes set to work."""

    def __init__(self, total: int, left: int, advance: Advance) -> None:
        self._total = total
        self._before = total - left
        self._done: dict[int, int] = {}
        self._advance = advance

    def tell(self, worker: int, done: int) -> None:
        """So many are done by a worker, 0 being this process."""
        self._done[worker] = done
        self._advance(self._before + sum(self._done.values()), self._total)


def _wait(pool: Pool, orders: int, progress: _Progress) -> list[str]:
    """Until so many orders are made or have failed; why they have."""
    ended, failures = 0, []

    def heard(event: Event) -> None:
        nonlocal ended
        if event.kind == "said":
            _log.warning("%s", event.text)
        elif event.kind == "advance":
            progress.tell(event.worker, event.done)
        else:
            ended += 1
            failures.extend([event.text] if event.kind == "failed" else [])

    while ended < orders:
        pool.wait(heard)
    return failures


def order_of(
    digest: str,
    experiment: Experiment,
    assets: Assets,
    threads: int,
    blocks: Sequence[int] | None = None,
    beside: int = 1,
) -> Order:
    """The order to make an artifact, or some blocks of it."""
    return Order(
        digest,
        experiment.model_dump_json(exclude_unset=True),
        threads,
        str(assets.cache),
        None if assets.path_map is None else str(assets.path_map),
        None if blocks is None else list(blocks),
        beside,
    )


@contextlib.contextmanager
def helping(folder: Path, experiment: Experiment, assets: Assets, jobs: int) -> Iterator[Helpers | None]:
    """The helpers of a run in `folder`, which end with it; none where there is one job."""
    if jobs < 2:
        yield None
        return
    threads = torch.get_num_threads()
    # this process has the first of the devices, if any are listed
    with Pool(folder, range(2, jobs + 1), max(threads // jobs, 1)) as pool:
        yield Helpers(pool, experiment, assets, jobs, threads)


@contextlib.contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Within it, operations of this process have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
