"""The status of a run, `status.json`: how far each stage is. `trimtab status` reads it, and takes no lock."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from trimtab.errors import RunError
from trimtab.store.blocks import Shard
from trimtab.store.files import read_json, write_text
from trimtab.store.lock import LOCK, Holder, holder_of, suffix
from trimtab.store.progress import Stage, Watch, duration, stage_table
from trimtab.store.remote import NOTE_READ, address_of


@dataclass(frozen=True)
class Status:
    """The stages of a run or of one shard, and the process that works on it or was killed doing so.

    `end`: how the process ended where it could still say so, such as `killed by SIGTERM`.
    """

    shard: str | None
    updated: float
    stages: list[Stage]
    holder: Holder | None
    end: str = ""


def write_status(folder: Path, watch: Watch, shard: Shard | None, end: str = "") -> None:
    """Replace the status of a run or of one of its shards; `end` says how it ended."""
    shard_name, stages = None if shard is None else str(shard), list(map(asdict, watch.stages.values()))
    values = {"shard": shard_name, "updated": time.time(), "stages": stages, "end": end}
    # ignore a full disk here: the next artifact reports it, and this must not hide the error that ended a stage
    with contextlib.suppress(RunError):
        write_text(folder / f"status{suffix(shard)}.json", [json.dumps(values, indent=1) + "\n"], durable=False)


def read_statuses(folder: Path) -> list[Status]:
    """The status of the run, and of each shard that has one.

    Raises:
        RunError: a status cannot be read.
    """
    statuses = []
    for file in sorted(folder.glob("status*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            stages = [Stage(**stage) for stage in values["stages"]]
        except (ValueError, TypeError, KeyError):
            raise RunError(f"{file} cannot be read: delete it, the next run writes a new one") from None
        lock = folder / f"{LOCK}{file.stem.removeprefix('status')}"
        holder = Holder.read(read_json(folder / NOTE_READ)) or holder_of(lock)
        if holder is not None and holder.alive is False:
            for stage in stages:
                stage.state = "killed" if stage.state == "runs" else stage.state
        statuses.append(Status(values["shard"], values["updated"], stages, holder, values.get("end", "")))
    return statuses


def print_status(directory: Path, console: Console, *, as_json: bool) -> None:
    """Print the status of a run and of each of its shards.

    Raises:
        RunError: the directory holds no run.
    """
    statuses = read_statuses(directory)
    if not statuses:
        raise RunError(f"{address_of(directory)} holds no run: give the directory of one, such as runs/quickstart")
    now = time.time()
    if as_json:
        processes = [_process(status, now) for status in statuses]
        console.print_json(json.dumps({"directory": address_of(directory), "processes": processes}))
        return
    for status in statuses:
        shard = "" if status.shard is None else f", shard {status.shard}"
        console.print(
            f"{address_of(directory)}{shard}: {state(status, now)}", highlight=False, markup=False, soft_wrap=True
        )
        console.print(stage_table(status.stages, clock(status, now), len(status.stages) + 1))


def state(status: Status, now: float) -> str:
    """Whether the run has finished or stopped, or which process works on it, in words."""
    updated = f"last update {duration(now - status.updated)} ago"
    holder = status.holder
    if holder is None:
        finished = all(stage.state in ("made", "used again") for stage in status.stages)
        stopped = f"{status.end or 'stopped'}; run the same command again to resume"
        return f"{'finished' if finished else stopped}, {updated}"
    if holder.alive is None:
        return f"{holder} is working on it, if it is still running: {updated}"
    return f"{holder} is working on it, {updated}" if holder.alive else f"killed, {holder}; to resume: {holder.command}"


def clock(status: Status, now: float) -> float:
    """The time for which to show the stages: now, or the last update where no process works on them."""
    return status.updated if status.holder is None or status.holder.alive is False else now


def _process(status: Status, now: float) -> dict[str, Any]:
    """As JSON values. `alive` is null for another machine's process, `seconds_left` for an unknown rate."""
    at = clock(status, now)
    stages = [
        {**asdict(stage), "seconds_left": stage.seconds_left(at) if stage.state in ("runs", "killed") else None}
        for stage in status.stages
    ]
    holder = None if status.holder is None else {**asdict(status.holder), "alive": status.holder.alive}
    return {
        "shard": status.shard,
        "state": state(status, now),
        "updated": status.updated,
        "process": holder,
        "stages": stages,
    }
