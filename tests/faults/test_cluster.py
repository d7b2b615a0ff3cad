"""Workers on a real Ray cluster of two nodes on this machine: the bytes of one process, and no death loses anything."""

import logging
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from small_run import SETTINGS, SmallRun, run_bytes
from small_study import save_study, study_bytes
from trimtab.assets.resolve import Assets
from trimtab.cli import SHIPPED
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.errors import RunError
from trimtab.executors import ray_workers
from trimtab.executors.ray_workers import RayWorkers
from trimtab.executors.run import run as run_steps
from trimtab.executors.work import Setup
from trimtab.store.artifacts import Artifact
from trimtab.store.progress import watching
from warm import Warm

pytestmark = pytest.mark.xdist_group("cluster")
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "memory": 4 * 10**9}
KILLS = 5
LONGEST = 12.0
"""Seconds after which a driver is killed at the latest: its workers have started then, and have begun to work."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class TestCluster(Cluster):
    """Two nodes of one core each, which see the hub of the small run."""

    __test__ = False

    def __init__(self) -> None:
        self.client_port = free_port()
        head = {**NODE, "include_dashboard": False, "ray_client_server_port": self.client_port}
        head["_system_config"] = {"local_fs_capacity_threshold": 0.001}  # no room beside the object store
        super().__init__(initialize_head=True, head_node_args=head)
        self.add_node(**NODE)

    def workers(self, *, busy_with: str = "") -> list[psutil.Process]:
        """The processes of actors; Ray gives them the names of what they do."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.list_all_nodes()]
        return [child for pid in raylets for child in actors(pid) if busy_with in title(child)]


def actors(raylet: int) -> list[psutil.Process]:
    children = psutil.Process(raylet).children(recursive=True)
    others = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return [child for child in children if title(child).startswith("ray::") and not title(child).startswith(others)]


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def until(condition: object, seconds: float = 300.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(small_run: SmallRun) -> Iterator[TestCluster]:
    """Started once the cache of the small run is in the environment, which its workers inherit."""
    cluster = TestCluster()
    yield cluster
    cluster.shutdown()


def log(folder: Path, name: str = "quickstart") -> str:
    return (folder / name / "log.txt").read_text(encoding="utf-8")


def test_a_run_by_a_ray_client_and_a_study_give_the_bytes_of_one_process(
    cluster: TestCluster, warm: Warm, small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    address = f"ray://127.0.0.1:{cluster.client_port}"
    assert small_run.finish("run", folder, "--ray", address) == 0, small_run.errors(folder)
    assert run_bytes(folder) == whole
    assert not list((folder / "quickstart").glob(".seen-*"))

    made = {}
    for name, options in (("plain", ()), ("cluster", ("--ray", cluster.address))):
        folder = tmp_path / name
        folder.mkdir()
        file = save_study(folder, {"tune.loss": ["hinge", "sigmoid"]}, overrides={"evaluate.kl_samples": 0})
        arguments = ["study", str(file), "--quiet", "--runs", str(folder), "--path-map", str(small_run.path_map)]
        assert warm.wait(warm.start(*arguments, *options, errors=folder / "errors.txt")) == 0, small_run.errors(folder)
        made[name] = study_bytes(folder)
    assert made["cluster"] == made["plain"]


def test_a_node_that_dies_in_mid_block_loses_nothing_and_one_that_joins_takes_work(
    cluster: TestCluster, small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path
) -> None:
    doomed = cluster.add_node(**NODE, node_name="doomed")
    pid = small_run.start("run", tmp_path, "--ray", cluster.address)
    raylet = doomed.all_processes["raylet"][0].process.pid
    until(lambda: any(": block " in title(actor) for actor in actors(raylet)))
    (actor,) = actors(raylet)
    others = [other for other in cluster.workers() if other.pid != actor.pid]
    for process in (actor, *others):  # so that only a node that joins can take over the block
        process.suspend()
    cluster.remove_node(doomed, allow_graceful=False)
    actor.kill()
    joined = cluster.add_node(**NODE, node_name="joined")
    raylet = joined.all_processes["raylet"][0].process.pid
    until(lambda: any(not title(actor).startswith("ray::RayActor") for actor in actors(raylet)))
    for process in others:
        process.resume()
    assert small_run.wait(pid) == 0, small_run.errors(tmp_path)
    cluster.remove_node(joined)
    assert run_bytes(tmp_path) == whole
    reasons = "(its node has left the cluster|it cannot be reached)"  # Ray may notice the one or the other first
    assert re.search(f": doomed cpu 1 died: {reasons}; what it worked on is given out again", log(tmp_path))


def test_a_killed_driver_goes_on_to_the_same_bytes_and_leaves_no_process(
    cluster: TestCluster, small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path
) -> None:
    draw = random.Random(7)
    for _ in range(KILLS):
        pid = small_run.start("run", tmp_path, "--ray", cluster.address)
        time.sleep(draw.uniform(LONGEST / 4, LONGEST))
        os.kill(pid, signal.SIGKILL)
        assert small_run.wait(pid) == -signal.SIGKILL
        until(lambda: not cluster.workers())
    pid = small_run.start("evaluate", tmp_path, "--ray", cluster.address)
    until(lambda: cluster.workers(busy_with="::"))
    os.kill(pid, signal.SIGINT)
    assert small_run.wait(pid) == 130
    (line,) = small_run.errors(tmp_path).splitlines()
    assert line.startswith("trimtab: stopped; to resume: trimtab evaluate quickstart")
    until(lambda: not cluster.workers())
    assert small_run.finish("run", tmp_path, "--ray", cluster.address) == 0, small_run.errors(tmp_path)
    assert run_bytes(tmp_path) == whole


def test_workers_that_do_not_see_the_run_directory_get_and_give_artifacts_through_ray(
    cluster: TestCluster, small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_of = RayWorkers._start_of
    nowhere = Path("/nowhere/run")
    monkeypatch.setattr(
        RayWorkers,
        "_start_of",
        lambda self, place: replace(start_of(self, place), run=nowhere, token=nowhere / "token"),
    )
    experiment = load_experiment(SHIPPED / "quickstart.yaml", SETTINGS)
    with watching(quiet=True) as watch:
        run_steps(experiment, tmp_path, Assets(path_map=small_run.path_map), watch, "evaluate", ray=cluster.address)
    assert run_bytes(tmp_path) == {name: content for name, content in whole.items() if not name.startswith("report/")}
    assert not ray.is_initialized()


def test_what_no_worker_has_is_said_before_the_run_or_when_a_step_begins(
    cluster: TestCluster, small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path_map = tmp_path / "paths.yaml"
    path_map.write_bytes(small_run.path_map.read_bytes())
    assets = Assets(path_map=path_map)

    def experiment(*sets: str) -> Experiment:
        return load_experiment(SHIPPED / "quickstart.yaml", [*SETTINGS, *sets])

    with RayWorkers(Setup(tmp_path, assets), cluster.address) as workers:
        workers.check([(experiment().model_dump_json(exclude_unset=True), ["guide base", "tune"])])
        for sets, reason in {
            ("guide.rows=1000000", "data.test_prompts=1000000"):
                r"takes about \d+\.\d GB, and there are 4\.0 GB: lower guide\.rows from 1000000 to \d+",
            ("large.attention=flash_attention_2",):
                "guide base needs a GPU, and there is none: leave out large.attention",
        }.items():  # fmt: skip
            with pytest.raises(RunError, match=rf"^\S+ cpu \d: .*{reason}$"):
                workers.check([(experiment(*sets).model_dump_json(exclude_unset=True), ["guide base"])])

    def refusal() -> str:
        with watching(quiet=True) as watch, pytest.raises(RunError) as caught:
            run_steps(experiment(), tmp_path, assets, watch, "data", ray=cluster.address)
        return str(caught.value)

    path_map.write_text(yaml.safe_dump({"imdb": "/nowhere/reviews.csv"}), encoding="utf-8")  # as workers see it
    line = refusal()
    assert re.search(r"^\S+ cpu \d: the path map gives /nowhere/reviews.csv for imdb, which does not exist", line), line
    monkeypatch.setattr(ray_workers, "versions", lambda: {"Python": "3.11", "torch": "1.0"})
    line = refusal()
    assert re.search(r"^\S+ cpu \d: torch is \S+ there and 1\.0 here: install the same version on both$", line), line


def test_a_full_object_store_is_one_line(
    cluster: TestCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = Artifact("tune", "d", tmp_path / "tune-d", {})
    artifact.folder.mkdir()
    np.zeros(400 * 2**20, np.uint8).tofile(artifact.folder / "model.safetensors")
    caplog.set_level(logging.ERROR)
    with RayWorkers(Setup(tmp_path, Assets()), cluster.address) as workers:
        assert workers.parcel(artifact) is None  # all see the run directory
        for worker in workers.all().values():
            worker.sees = False
        with pytest.raises(RunError, match="Ray's object store has no room for tune-d") as caught:
            workers.parcel(artifact)
    assert "\n" not in str(caught.value) and "--object-store-memory" in str(caught.value)
