"""What a process and its workers tell each other: which artifact to make, how far it is, what came of it.

Imports nothing heavy: a worker listens for the end of its parent before it loads anything.

    >>> listening("0123456789ab", print).stages
    {}
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trimtab.store.progress import Stage, Watch


@dataclass(frozen=True)
class Order:
    """Make the artifact of this digest: a step of the experiment, which comes as JSON.

    With `blocks`, decode only these of its blocks; `beside` is then the number of processes that work on the artifact.
    Without, `beside` is the number of processes that share this one's device.
    """

    digest: str
    experiment: str
    threads: int
    cache: str
    path_map: str | None
    blocks: list[int] | None = None
    beside: int = 1


@dataclass(frozen=True)
class Event:
    """A message from a worker: progress, success, failure with its reason, or a warning."""

    digest: str
    kind: Literal["advance", "made", "failed", "said"]
    text: str = ""
    done: int = 0
    total: int = 0
    worker: int = 0


Tell = Callable[[Event], None]


def listening(digest: str, tell: Tell, worker: int = 0) -> Watch:
    """A watch that tells how far the task of this digest is."""

    def advance(stage: Stage) -> None:
        if stage.total is not None and stage.state == "runs":
            tell(Event(digest, "advance", done=stage.done, total=stage.total, worker=worker))

    watch = Watch()
    watch.listeners.append(advance)
    watch.say = lambda line: tell(Event(digest, "said", line))
    return watch
