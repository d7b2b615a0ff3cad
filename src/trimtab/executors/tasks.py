"""What a driver carries out, and how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trimtab.pipeline.step import Step
from trimtab.store.artifacts import Artifact
from trimtab.store.blocks import Shard


@dataclass(frozen=True)
class Task:
    """A step to carry out: what it makes and reads, its experiment as JSON, and what progress calls it."""

    step: Step
    artifact: Artifact
    inputs: Mapping[str, Artifact]
    experiment: str
    name: str


@dataclass(frozen=True)
class Manner:
    """How tasks are carried out.

    Args:
        threads: threads of each worker.
        jobs: how many workers share the machine's devices.
        shard: decode only the blocks of this shard, and leave steps open for the others.
        traced: write the steps of each search into the run directory.
        made: called with each task whose artifact is whole, made now or earlier.
    """

    threads: int
    jobs: int = 1
    shard: Shard | None = None
    traced: bool = False
    made: Callable[[Task], None] = lambda task: None
