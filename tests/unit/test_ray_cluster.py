"""How a cluster's nodes are dealt out to workers, and what is said where there is no such cluster."""

import importlib.util
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.errors import ConfigurationError, RunError
from trimtab.executors import ray_workers
from trimtab.executors.options import WorkerOptions
from trimtab.executors.packing import pack, unpack
from trimtab.executors.ray_cluster import Layout, Place, connected
from trimtab.executors.run import workers_for
from trimtab.executors.work import Setup


def node(name: str, cores: int, gpus: int = 0, memory: float = 8e9) -> dict[str, Any]:
    return {"NodeID": f"id of {name}", "NodeName": name, "Resources": {"CPU": cores, "GPU": gpus, "memory": memory}}


def layout(*nodes: dict[str, Any], jobs: int | None = None, threads: int | None = None, spread: bool = False) -> Layout:
    return Layout.of(nodes, jobs, threads, spread=spread)


def test_without_gpus_a_node_has_one_worker_or_workers_of_equally_many_cores() -> None:
    assert layout(node("a", 16), node("b", 16)).cores == 16
    assert layout(node("head", 2), node("a", 64), node("b", 64)).cores == 64  # the head stays idle
    assert layout(node("a", 16), node("b", 32)).cores == 16
    assert layout(node("a", 16), node("b", 16), jobs=4).cores == 8
    assert layout(node("a", 2), node("b", 2), jobs=1).cores == 2  # no worker spans two nodes
    assert layout(node("a", 2), node("b", 2), jobs=100).cores == 1
    assert layout(node("a", 16), threads=3).cores == 3
    places = list(layout(node("a", 16), node("b", 4), threads=8).places([node("a", 16), node("b", 4)]))
    assert places == [
        Place("id of a", "a cpu 1", cores=8, gpus=0, beside=2, memory=8e9),
        Place("id of a", "a cpu 2", cores=8, gpus=0, beside=2, memory=8e9),
    ]


def test_a_cluster_with_gpus_has_a_worker_for_each_of_them() -> None:
    nodes = [node("head", 8), node("a", 32, gpus=4), node("b", 64, gpus=8)]
    found = layout(*nodes)
    assert found == Layout(cores=8, gpus=True)
    places = list(found.places(nodes))
    assert [place.name for place in places] == [f"{name} gpu {n}" for name, count in (("a", 4), ("b", 8))
                                                for n in range(1, count + 1)]  # fmt: skip
    assert {(place.gpus, place.cores, place.memory) for place in places} == {(1, 8, None)}
    few = list(found.places([node("c", 2, gpus=4)]))  # it has too few cores for all, and its GPUs count
    assert {(place.gpus, place.cores) for place in few} == {(1, 0)}


def test_a_model_that_is_spread_takes_all_gpus_of_a_node() -> None:
    nodes = [node("a", 32, gpus=4), node("b", 64, gpus=8)]
    places = list(layout(*nodes, spread=True).places(nodes))
    assert [(place.name, place.gpus, place.beside) for place in places] == [("a 4 gpus 1", 4, 1), ("b 8 gpus 1", 8, 1)]


def test_names_of_workers_that_run_are_not_given_twice() -> None:
    (place,) = layout(node("a", 1)).places([node("a", 1)], taken={"a cpu 1", "a cpu 3"})
    assert place.name == "a cpu 2"


@pytest.mark.parametrize(("nodes", "threads"), [([], None), ([node("head", 0)], None), ([node("a", 2)], 4)])
def test_a_cluster_without_room_for_a_worker_is_refused(nodes: list[dict[str, Any]], threads: int | None) -> None:
    with pytest.raises(RunError, match=f"has {threads or 1} free cores for a worker; the largest has "):
        Layout.of(nodes, None, threads, spread=False)


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8265", "127.0.0.1", "ray://host:port"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"give auto, local, host:port or ray://host:port"), connected(address):
        pass


@pytest.mark.parametrize("kind", ["{}", "ray://{}"])
def test_an_address_where_no_ray_is_is_said_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = kind.format(f"127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr("sys.argv", ["trimtab", "run", "quickstart", "--ray", address, "--runs", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(f"trimtab: --ray {address}: no Ray cluster answers at 127.0.0.1:")


def test_auto_without_a_cluster_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(address: str) -> str:
        raise ConnectionError

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", none)
    with pytest.raises(ConfigurationError, match="start one by `ray start --head`"), connected("auto"):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), connected("auto"):
        pass


def test_another_version_of_ray_or_python_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatch(*arguments: object, **options: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.12.1")

    monkeypatch.setattr(ray, "init", mismatch)
    with pytest.raises(ConfigurationError) as caught, connected("local"):
        pass
    assert str(caught.value).endswith("The cluster was started with: Ray: 2.50.0 Python: 3.12.1")


def test_ray_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'trimtab\[ray\]'"):
        workers_for(Setup(tmp_path, Assets(cache=tmp_path)), WorkerOptions(ray="auto"))


@pytest.mark.parametrize("package", ["trimtab", "torch", "transformers", "Python"])
def test_a_worker_with_another_version_is_named_with_both(package: str) -> None:
    here = ray_workers.versions()
    assert ray_workers.versions_fault(here) == ""
    fault = ray_workers.versions_fault({**here, package: "0.9"})
    assert fault == f"{package} is 0.9 there and {here[package]} here: install the same version on both"


def test_a_folder_survives_packing(tmp_path: Path) -> None:
    for name, content in {"model/weights.bin": bytes(range(256)), "summary.json": b"{}", "model/empty": b""}.items():
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(content)
    files = pack(tmp_path / "a")
    assert all(type(content) is np.ndarray for content in files.values())  # what Ray sends without a copy
    (tmp_path / "b").mkdir()
    unpack(files, tmp_path / "b")
    assert {name: (tmp_path / "b" / name).read_bytes() for name in files} == {
        "model/weights.bin": bytes(range(256)), "summary.json": b"{}", "model/empty": b"",
    }  # fmt: skip


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_client_server_whose_process_dies_is_asked_again(
    failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its process dies now and then while it starts; what fails three times is said in one line."""
    tries = []

    def init(address: str, **options: object) -> None:
        tries.append(address)
        if len(tries) <= failures:
            raise ConnectionAbortedError("Initialization failure from server:\nStarting Ray client server failed.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: tries.append("shutdown"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"ray://127.0.0.1:{listener.getsockname()[1]}"
        if failures < 3:
            with connected(address):
                assert tries == [address] * (failures + 1)
            assert tries[-1] == "shutdown"
        else:
            line = f"--ray {address}: .*client server failed"
            with pytest.raises(ConfigurationError, match=line), connected(address):
                pass
            assert tries == [address] * 3
    assert caplog.text.count("could not start its process: trying again") == min(failures, 2)
