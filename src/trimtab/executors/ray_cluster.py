"""A Ray cluster: connecting to it, and how its nodes are dealt out to workers.

A cluster with GPUs has a worker for each GPU, or for each node where a model is spread over all GPUs of a node. Any
other has workers of equally many cores, since the last digits of a result depend on the number of threads.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import ray

from trimtab.errors import ConfigurationError, RunError, one_line

CONNECT_SECONDS = 10.0
"""How long an address may take to answer; Ray itself tries for minutes."""
CLIENT_TRIES = 3
"""How often a `ray://` address is asked for a process of its client server."""
IDLE_SHARE = 0.25
"""The part of all cores that may stay idle, where nodes have unlike numbers of them, so that workers can be larger."""
Node = Mapping[str, Any]
"""A node as `ray.nodes` lists it."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a worker runs: a node's id, the worker's name, the cores and GPUs that it takes, how many workers its node
    has, and the memory in bytes that they share (None where they use the GPUs' own)."""

    node: str
    name: str
    cores: int
    gpus: int
    beside: int
    memory: float | None


@dataclass(frozen=True)
class Layout:
    """What every worker takes of its node.

    Args:
        cores: its cores, which are its threads.
        gpus: whether workers run on GPUs; nodes without any have no worker then.
        spread: whether a worker takes all GPUs of its node.
    """

    cores: int
    gpus: bool = False
    spread: bool = False

    @classmethod
    def of(cls, nodes: Sequence[Node], jobs: int | None, threads: int | None, *, spread: bool) -> Self:
        """The layout of a cluster of these nodes for at most `jobs` workers with `threads` threads each.

        Raises:
            RunError: no node has as many cores.
        """
        with_gpus = [node for node in nodes if _count(node, "GPU")]
        if with_gpus:
            shares = [_count(node, "CPU") // (1 if spread else _count(node, "GPU")) for node in with_gpus]
            return cls(threads or max(min(shares), 1), gpus=True, spread=spread)
        cores = [count for node in nodes if (count := _count(node, "CPU"))]
        most = max(cores, default=0)
        if threads is None and most:
            threads = _most_used(cores) if jobs is None else min(max(sum(cores) // jobs, 1), most)
        if threads is None or threads > most:
            raise RunError(f"no node of the cluster has {threads or 1} free cores for a worker; the largest has {most}")
        return cls(threads)

    def places(self, nodes: Iterable[Node], taken: Collection[str] = ()) -> Iterator[Place]:
        """The workers on these nodes, with names that are not `taken`."""
        names = set(taken)
        for node in nodes:
            gpus, cores = _count(node, "GPU") if self.gpus else 0, _count(node, "CPU")
            count = (min(gpus, 1) if self.spread else gpus) if self.gpus else cores // self.cores
            for _ in range(count):
                kind = f"{gpus} gpus" if self.spread and gpus else "gpu" if self.gpus else "cpu"
                name = _free_name(f"{node['NodeName']} {kind}", names)
                names.add(name)
                memory = None if self.gpus else float(node["Resources"].get("memory", 0)) or None
                each = gpus // count, min(self.cores, cores // count)
                yield Place(node["NodeID"], name, each[1], each[0], count, memory)


def _count(node: Node, resource: str) -> int:
    return int(node["Resources"].get(resource, 0))


def _most_used(cores: Sequence[int]) -> int:
    """The largest number of cores a worker with which no more than `IDLE_SHARE` of all cores stay idle."""
    enough = (1 - IDLE_SHARE) * sum(cores)
    return next(size for size in range(max(cores), 0, -1) if sum(count // size * size for count in cores) >= enough)


def _free_name(stem: str, taken: Collection[str]) -> str:
    number = 1
    while f"{stem} {number}" in taken:
        number += 1
    return f"{stem} {number}"


def living_nodes() -> list[Node]:
    """The nodes that the cluster has now."""
    return [node for node in ray.nodes() if node["Alive"]]


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at an address: `auto`, `local`, `host:port` or `ray://host:port`.

    Raises:
        ConfigurationError: no cluster answers there, or it has another version of Ray or Python.
    """
    if ray.is_initialized():  # by the program that calls this one
        yield
        return
    found = _found(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else each start warns of a change to come
    with _signals_kept():
        try:
            _begin(found)
        except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
            raise ConfigurationError(f"--ray {address}: {one_line(str(error))}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _begin(address: str) -> None:
    """Have this process be a driver. A process of Ray's client server that dies at its start is asked for again: the
    server forks while its threads call gRPC, which now and then ends the child (Ray 2.60, seen on busy machines)."""
    for left in reversed(range(CLIENT_TRIES)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except ConnectionAbortedError:
            if not left:
                raise
            _log.warning("Ray's client server at %s could not start its process: trying again", address)


def _found(address: str) -> str:
    """The address that `auto` stands for; any other as it is. Given `auto` itself, Ray 2.60 loses the actors it starts.

    Raises:
        ConfigurationError: nothing listens there.
    """
    if address == "local":
        return address
    there = _own_cluster() if address == "auto" else address
    try:
        split = urlsplit(there if "://" in there else f"//{there}")
        host, port = split.hostname, split.port
    except ValueError:
        host = port = None
    if host is None or port is None or split.scheme not in ("", "ray"):
        raise ConfigurationError(f"--ray is {address}: give auto, local, host:port or ray://host:port")
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigurationError(f"--ray {address}: no Ray cluster answers at {host}:{port} ({error})") from None
    return there


def _own_cluster() -> str:
    """The address of the cluster that this machine belongs to."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return os.environ.get("RAY_ADDRESS") or str(canonicalize_bootstrap_address("auto"))
    except ConnectionError:
        raise ConfigurationError(
            "--ray auto: no Ray cluster runs on this machine: start one by `ray start --head`, give the address of "
            "one, or give --ray local"
        ) from None


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """`ray.init` puts a handler of its own in the place of the process's for SIGTERM; inside, that is undone."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
