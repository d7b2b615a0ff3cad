"""How far a run is, told from outside: reads what the run writes down of itself, and looks whether its process lives.

Takes no lock and writes nothing.

    $ trimtab status runs/quickstart
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from trimtab.errors import RunError
from trimtab.store.log import Status, read_statuses
from trimtab.store.progress import duration, stage_table


def print_status(directory: Path, console: Console, *, as_json: bool) -> None:
    """Print the status of a run, and of each of its shards.

    Raises:
        RunError: the directory holds no run.
    """
    statuses = read_statuses(directory)
    if not statuses:
        raise RunError(f"{directory} holds no run: give the directory of one, such as runs/quickstart")
    now = time.time()
    if as_json:
        console.print_json(json.dumps({"directory": str(directory), "processes": [_plain(s, now) for s in statuses]}))
        return
    for status in statuses:
        console.print(
            f"{directory}{_part(status)}: {state(status, now)}", highlight=False, markup=False, soft_wrap=True
        )
        console.print(stage_table(status.stages, clock(status, now), len(status.stages) + 1))


def state(status: Status, now: float) -> str:
    """In words: whether a process works on it, and which."""
    ago = f"last heard of {duration(now - status.updated)} ago"
    if status.holder is None:
        whole = all(stage.state in ("made", "used again") for stage in status.stages)
        return f"{'finished' if whole else 'stopped; the same command goes on where it was'}, {ago}"
    alive = status.holder.alive
    if alive is None:
        return f"{status.holder} works on it, if it still lives: {ago}"
    if alive:
        return f"{status.holder} works on it, {ago}"
    return f"{status.holder} died; this goes on where it was: {status.holder.command}"


def clock(status: Status, now: float) -> float:
    """The time that its stages are looked at: where nothing works on them, when it was last heard of."""
    return status.updated if status.holder is None or status.holder.alive is False else now


def _part(status: Status) -> str:
    return "" if status.shard is None else f", shard {status.shard}"


def _plain(status: Status, now: float) -> dict[str, Any]:
    """`alive` is null where the process is on another machine; a stage's `seconds_left` where it is not known."""
    holder = None if status.holder is None else {**asdict(status.holder), "alive": status.holder.alive}
    stages = [
        {**{name: value for name, value in asdict(stage).items() if name != "reports"},
         "seconds_left": stage.seconds_left(clock(status, now)) if stage.state == "runs" else None}
        for stage in status.stages
    ]  # fmt: skip
    return {
        "shard": status.shard,
        "state": state(status, now),
        "updated": status.updated,
        "process": holder,
        "stages": stages,
    }
