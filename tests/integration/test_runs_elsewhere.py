"""A run at a URL: killed on one machine it goes on at another, and ends in the bytes of a run in a folder.

A machine is a cache folder of its own; the URL is a folder that all of them see.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_run import SmallRun, run_bytes
from warm import Warm


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRun]:
    warm = Warm()
    yield SmallRun(warm, tmp_path_factory.mktemp("small-run"))
    warm.close()


def test_a_run_goes_on_at_another_machine(small_run: SmallRun, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    url = f"file://{remote}"

    def start(machine: str) -> int:
        (tmp_path / machine).mkdir(exist_ok=True)
        words = small_run.arguments("evaluate", url)
        environment = {"TRIMTAB_CACHE": str(tmp_path / machine / "cache")}
        return small_run.warm.start(*words, errors=tmp_path / machine / "errors.txt", environment=environment)

    def errors(machine: str) -> str:
        return small_run.errors(tmp_path / machine)

    first = start("first")
    while not list(remote.glob("quickstart/tune-*/files.json")):
        time.sleep(0.01)
    os.kill(first, signal.SIGKILL)
    assert small_run.wait(first) == -signal.SIGKILL

    assert small_run.wait(start("second")) == 2
    assert errors("second").startswith(f"trimtab: {url}/quickstart is in use by process {first} on ")
    note = remote / "quickstart" / ".lock.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "seen": time.time() - 3600}))
    assert small_run.wait(start("second")) == 0, errors("second")
    log = (remote / "quickstart" / "log.txt").read_text()
    assert log.count("start: trimtab evaluate") == 2 and log.count("was killed: resuming its run") == 1
    assert log.count("tune: runs") == 1 and log.count("downloaded tune-") == 1
    assert not note.exists()

    (tmp_path / "plain").mkdir()
    assert small_run.finish("evaluate", tmp_path / "plain") == 0
    assert run_bytes(remote) == run_bytes(tmp_path / "plain")

    assert small_run.wait(start("first")) == 0, errors("first")
    assert run_bytes(remote) == run_bytes(tmp_path / "plain")
    run = f"{url}/quickstart"
    third = {"TRIMTAB_CACHE": str(tmp_path / "third")}
    for words in (["status", run], ["compare", f"{run}:base", f"{run}:bon-4"], ["save", run, str(tmp_path / "saved")]):
        said = tmp_path / "errors.txt"
        assert small_run.wait(small_run.warm.start(*words, errors=said, environment=third)) == 0, said.read_text()
    assert (tmp_path / "saved" / "README.md").is_file()
