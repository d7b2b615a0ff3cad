"""What is heard of a task while an artifact is made, wherever that is.

Imports nothing heavy: a worker listens for the end of its study before it loads anything.

    >>> listening("0123456789ab", print).stages
    {}
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trimtab.progress import Stage, Watch


@dataclass(frozen=True)
class Event:
    """What is heard of a task: how far it is, that it is `made`, or why it `failed`; `said` is a warning of any."""

    digest: str
    kind: Literal["advance", "made", "failed", "said"]
    text: str = ""
    done: int = 0
    total: int = 0


Tell = Callable[[Event], None]


def listening(digest: str, tell: Tell) -> Watch:
    """A watch that tells how far the task of this digest is."""

    def advance(stage: Stage) -> None:
        if stage.total is not None and stage.state == "runs":
            tell(Event(digest, "advance", done=stage.done, total=stage.total))

    watch = Watch()
    watch.listeners.append(advance)
    watch.say = lambda line: tell(Event(digest, "said", line))
    return watch
