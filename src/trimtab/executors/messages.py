"""The messages between the driver, the process that runs an experiment or a study, and its workers.

Imports no heavy library: a worker reads messages before it loads torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trimtab.store.progress import Stage, Watch


@dataclass(frozen=True)
class Task:
    """The driver asks a worker for the artifact `digest` of an experiment, which is given as JSON.

    With `blocks`, only these blocks of it are decoded, and `beside` processes work on the same artifact. Without,
    `beside` is the number of processes that share the worker's device.
    """

    digest: str
    experiment: str
    threads: int
    cache: str
    path_map: str | None
    blocks: list[int] | None = None
    beside: int = 1


@dataclass(frozen=True)
class Message:
    """A worker's progress with a task, success, failure with its reason, or a warning of any task."""

    digest: str
    kind: Literal["progress", "made", "failed", "warning"]
    text: str = ""
    done: int = 0
    total: int = 0
    worker: int = 0


Send = Callable[[Message], None]


def sending_watch(digest: str, send: Send, worker: int = 0) -> Watch:
    """A watch that sends the progress of the task `digest`."""

    def send_progress(stage: Stage) -> None:
        if stage.total is not None and stage.state == "runs":
            send(Message(digest, "progress", done=stage.done, total=stage.total, worker=worker))

    watch = Watch()
    watch.listeners.append(send_progress)
    watch.print = lambda line: send(Message(digest, "warning", line))
    return watch
