"""What the driver asks a worker to do, and what the worker gives back.

The driver is the process that runs an experiment or a study. It alone writes blocks, artifacts, logs and the report; a
worker gets a step, or one block of it, and gives back records. Imports nothing heavy: a worker reads its first work
before it loads torch.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimtab.assets.resolve import Assets
from trimtab.errors import RunError
from trimtab.executors.packing import Files
from trimtab.store.artifacts import Artifact
from trimtab.store.blocks import Block, Plan


@dataclass(frozen=True)
class Setup:
    """What a worker is told when it starts: the run directory, and where it finds models and data."""

    run: Path
    assets: Assets


@dataclass(frozen=True)
class Work:
    """One thing to do for a step of an experiment.

    Args:
        kind: `open`: load what the step needs and say how its prompts are cut into blocks; `decode`: decode one block;
            `make`: make the whole artifact.
        experiment: the experiment as JSON.
        step: the step's name in the experiment's list of steps.
        artifact: what the step makes; a worker fills its `partial` folder and keeps checkpoints in `work`.
        inputs: the artifacts that the step reads, by the names of their steps.
        threads: how many threads to compute with. They are a part of the plan, since the last bits depend on them.
        jobs: how many workers there are, so that each takes its share of a device's memory.
        block: the block's number.
        size: how many prompts a block has.
        traced: also give back the steps of each search.
        parcels: how a worker that does not see the run directory gets each input, by the folder's name.
    """

    kind: Literal["open", "decode", "make"]
    experiment: str
    step: str
    artifact: Artifact
    inputs: Mapping[str, Artifact]
    threads: int
    jobs: int
    block: int = 0
    size: int = 0
    traced: bool = False
    parcels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoded:
    """A block, the device that decoded it, and the lines of its trace."""

    block: Block
    device: str
    trace: str = ""


@dataclass(frozen=True)
class Made:
    """A whole artifact was made. `files` are those of its folder, where the run directory is not seen."""

    device: str
    files: Files | None = None


Result = Plan | Decoded | Made


@dataclass(frozen=True)
class Note:
    """What a worker says while it works: the progress of a step, by its artifact's digest, or a warning.

    `done` counts units of a step's `total`, or of a `block` it is the share that is done.
    """

    digest: str = ""
    done: float = 0
    total: int = 0
    block: int | None = None
    warning: str = ""


PutNote = Callable[[Note], None]
Wanted = Sequence[tuple[str, Sequence[str]]]
"""Experiments as JSON, each with the names of steps."""


class WorkerDied(BrokenExecutor):
    """A worker's process, or its machine, has ended; the message says how. Its work can be given out again."""


class Unfit(RunError):
    """A worker lacks something that a step needs, such as files or memory; another may have it."""


class WorkerFault(Exception):
    """A fault of trimtab's in another process, as one line; its log has the traceback."""
