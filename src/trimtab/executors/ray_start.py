"""What an actor is told when it starts, and what it answers. Imports nothing heavy."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SAME = ("trimtab", "torch", "transformers")
"""Packages that must have one version on all machines of a run."""


@dataclass(frozen=True)
class Start:
    """What an actor is told when it starts.

    Args:
        name: the worker's name.
        run: the run directory.
        token: a file in the run directory: who sees it sees the directory.
        folder: the driver's working directory.
        path_map: the driver's path map.
        threads: how many threads it computes with.
        gpus: how many GPUs it has.
        beside: how many workers share its node's memory.
        memory: bytes of that memory; None where models are in the GPUs' memory.
    """

    name: str
    run: Path
    token: Path
    folder: Path
    path_map: Path | None
    threads: int
    gpus: int
    beside: int
    memory: float | None


@dataclass(frozen=True)
class Hello:
    """An actor's first word: its versions, and whether it sees the run directory."""

    versions: Mapping[str, str]
    sees: bool


def versions() -> dict[str, str]:
    """The versions that must be the same on all machines. A suffix such as +cu128 says what torch was built for."""
    found = {"Python": ".".join(map(str, sys.version_info[:2]))}
    for name in SAME:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "none"
    return found
