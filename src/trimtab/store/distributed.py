"""The processes that `accelerate launch` or `torchrun` started together, as their environment variables describe them.

>>> launched().main  # a process that nobody launched
True
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil

SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
T = TypeVar("T")


@dataclass(frozen=True)
class Launched:
    """A process's `index` among the `count` launched processes and `local` index on its machine, counted from 0.

    Only the main process, of index 0, writes artifacts, locks, logs and progress.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        return self.index == 0

    @property
    def alone(self) -> bool:
        return self.count == 1


def launched() -> Launched:
    """This process among those that were launched with it."""
    get = os.environ.get
    return Launched(int(get("RANK", 0)), int(get("WORLD_SIZE", 1)), int(get("LOCAL_RANK", 0)))


def launch_command(arguments: Sequence[str]) -> list[str] | None:
    """The words of the command that launched this process with these arguments; None if its parent is no launcher."""
    try:
        parent = None if launched().alone else psutil.Process().parent()
        words = [] if parent is None else parent.cmdline()
    except psutil.Error:  # it has ended, or is another user's
        words = []
    if not arguments or words[-len(arguments) :] != [*arguments]:
        return None
    if Path(words[0]).name.startswith("python") and words[1] != "-m":  # the interpreter that runs `accelerate`
        words = words[1:]
    return [Path(words[0]).name, *words[1:]]


def sharding() -> str | None:
    """FSDP or DeepSpeed, if the launch asks for one of them to shard weights or gradients over the GPUs."""
    return next((name for variable, name in SHARDING.items() if os.environ.get(variable, "").lower() == "true"), None)


def decided_by_main(decide: Callable[[], T]) -> T:
    """The result of `decide` in the main process, broadcast to all processes; all of them must call this."""
    if launched().alone:
        return decide()
    from accelerate.utils import broadcast_object_list

    decision = [decide() if launched().main else None]
    broadcast_object_list(decision)
    return decision[0]  # type: ignore[return-value]


def lost_another(error: Exception) -> bool:
    """Whether an error, of whichever communication library, means that another launched process has ended."""
    if launched().alone:
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


def first_to_fail() -> bool:
    """Whether this process is the first one to report a failure, so that the user sees one message only.

    Counted in the launcher's store, which outlives the processes. Without such a store the main process reports.
    """
    process = launched()
    if process.alone:
        return True
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() != "true":
        return process.main
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    try:
        port = int(os.environ["MASTER_PORT"])
        store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=timedelta(seconds=5))
        # restarts of one launch share the store
        return store.add(f"trimtab/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except DistError:
        return process.main
