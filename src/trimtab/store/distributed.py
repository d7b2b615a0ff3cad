"""The processes of one launch: which of them this is, what the main one decides for all, and who tells of a failure.

`accelerate launch` and `torchrun` say it in the environment. Imports nothing heavy, and knows nothing of what is run.

    >>> launched().main  # a process that nobody launched
    True
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

COMMAND = "TRIMTAB_COMMAND"
"""The environment's name for the command that launched this process, where trimtab did."""
SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
NAMES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
T = TypeVar("T")


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does."""


@dataclass(frozen=True)
class Launched:
    """Process `index` of `count`, counted from 0, and `local` of those on its machine, each of which has a GPU.

    The main one alone writes artifacts, locks, logs and progress.
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
    index, count, local = (int(os.environ.get(name, default)) for name, default in NAMES.items())
    return Launched(index, count, local)


def sharding() -> str | None:
    """FSDP or DeepSpeed, where the launch asks for weights or gradients that are cut over the GPUs."""
    return next((name for variable, name in SHARDING.items() if os.environ.get(variable, "").lower() == "true"), None)


def decided_by_main(decide: Callable[[], T]) -> T:
    """What `decide` gives in the main process, in every process; all must ask for it."""
    if launched().alone:
        return decide()
    from accelerate.utils import broadcast_object_list

    decision = [decide() if launched().main else None]
    broadcast_object_list(decision)
    return decision[0]  # type: ignore[return-value]


def lost_another(error: Exception) -> bool:
    """Whether an error says that another launched process has gone, whatever the library that speaks to it."""
    if launched().alone:
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


def first_to_fail() -> bool:
    """Whether no other process has told of a failure: one line is said, by whichever process comes first.

    The launcher's store knows, which outlives the processes. Launchers without one leave it to the main process.
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
