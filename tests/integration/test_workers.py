"""Workers share the steps and blocks of a run: the same bytes as one process, whatever dies meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from finished import Finished, run
from small_run import SETTINGS, run_bytes
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import is_study, load_experiment
from trimtab.errors import AssetError, ConfigurationError, RunError
from trimtab.executors import local
from trimtab.executors.local import LocalWorkers
from trimtab.executors.work import Setup, Work, WorkerDied
from trimtab.pipeline.traces import trace_file, traced
from trimtab.store.lock import run_lock
from trimtab.store.progress import watching
from trimtab.study.study_file import load_study

READY_REWARD = ["reward.training=null", "reward.model=lvwerra/distilbert-imdb", "reward.positive_label=POSITIVE"]
DECODED = {"synthesize tuning", "guide base", "guide bon-4", "guide cbs-2-2-3", "guide eft-1"}


@pytest.fixture(scope="module")
def path_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, path_map: Path) -> dict[str, bytes]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    decoded(folder, path_map, jobs=1)
    return run_bytes(folder)


def decoded(folder: Path, path_map: Path, jobs: int, trace: bool = False) -> Finished:
    settings = [each for each in SETTINGS if not each.startswith("reward.training.")]
    experiment = load_experiment(cli.SHIPPED / "quickstart.yaml", [*settings, *READY_REWARD])
    with watching(quiet=True) as watch:
        return run(experiment, folder, Assets(cache=folder / "cache", path_map=path_map), watch, trace=trace, jobs=jobs)


def noting(monkeypatch: pytest.MonkeyPatch, before: Callable[[Any, Work], None]) -> None:
    """Call `before` with a worker and what it is about to be given."""
    submit = local._ProcessWorker.submit

    def noted(worker: Any, fn: Any, *given: Any) -> "Future[Any]":
        if given:  # no work, but a rest before a training
            before(worker, given[0])
        return submit(worker, fn, *given)

    monkeypatch.setattr(local._ProcessWorker, "submit", noted)


def no_child_is_left() -> bool:
    return not [child for child in psutil.Process().children(recursive=True) if "spawn_main" in str(child.cmdline())]


def test_two_workers_make_what_one_process_makes(
    tmp_path: Path, path_map: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, Work]] = []
    noting(monkeypatch, lambda worker, work: given.append((worker._start.number, work)))
    rested, rest = list[str](), LocalWorkers.rest
    monkeypatch.setattr(LocalWorkers, "rest", lambda workers: (rested.append("training"), rest(workers)))
    line = decoded(tmp_path, path_map, jobs=2)
    assert run_bytes(tmp_path) == alone
    blocks = [(work.step, work.block) for _, work in given if work.kind == "decode"]
    assert len(blocks) == len(set(blocks)) == 3 + 1 + 1 + 3 + 3 + 1, "each block once"
    assert {number for number, _ in given} == {1, 2}
    steps = [work.step for _, work in given if work.kind != "decode"]
    assert len(steps) == len(set(steps)) and steps.index("evaluate base") < steps.index("guide eft-1")
    assert torch.get_num_threads() == 1
    assert rested == ["training"] * 2, "a training has the memory of all workers"
    states = {name: stage for name, stage in line.watch.stages.items() if name in DECODED}
    assert all(stage.done == stage.total for stage in states.values()) and len(states) == 5
    assert (tmp_path / "quickstart" / "log-worker-2.txt").is_file() and no_child_is_left()
    with run_lock(tmp_path / "quickstart"):
        pass


def dying(monkeypatch: pytest.MonkeyPatch, dies: Callable[[Work], bool]) -> None:
    """A worker that is given such work is killed before it has done it."""
    submit = local._ProcessWorker.submit

    def killed(worker: Any, fn: Any, *given: Any) -> "Future[Any]":
        if not given or not dies(given[0]):
            return submit(worker, fn, *given)
        worker.start()
        os.kill(worker._process.pid, signal.SIGSTOP)
        future = submit(worker, fn, *given)
        worker._process.kill()
        return future

    monkeypatch.setattr(local._ProcessWorker, "submit", killed)


def test_a_worker_that_dies_loses_no_block(
    tmp_path: Path, path_map: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work is given out again: a question how a step is cut, a block, a whole step."""
    tries: list[str] = []

    def dies(work: Work) -> bool:
        tries.append(work.kind)
        return tries.count(work.kind) == 1  # the first of each kind

    dying(monkeypatch, dies)
    decoded(tmp_path, path_map, jobs=2)
    assert run_bytes(tmp_path) == alone and set(tries) == {"make", "open", "decode"}
    log = (tmp_path / "quickstart" / "log.txt").read_text()
    assert log.count("by SIGKILL: if memory is short, lower --jobs; what it worked on is given out again") == 3


def test_a_block_that_kills_every_worker_ends_the_run_and_the_others_are_kept(
    tmp_path: Path, path_map: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Work] = []

    def dies(work: Work) -> bool:
        deadly = (work.step, work.kind, work.block) == ("synthesize tuning", "decode", 1)
        tries.extend([work] if deadly else [])
        return deadly

    with monkeypatch.context() as patched:
        dying(patched, dies)
        line = r"^worker \d was killed by SIGKILL: if memory is short, lower --jobs; it was given out 4 times"
        with pytest.raises(RunError, match=line):
            decoded(tmp_path, path_map, jobs=2)
    assert len(tries) == 4 and no_child_is_left()
    (work,) = (tmp_path / "quickstart").glob("synthesize-*.work")
    assert sorted(file.name for file in work.glob("0*.jsonl")) == ["00000.jsonl", "00002.jsonl"]
    decoded(tmp_path, path_map, jobs=1)
    assert run_bytes(tmp_path) == alone


def test_a_worker_that_fails_says_why(tmp_path: Path, path_map: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a model is another one to the worker than it was to the driver."""

    def spoil(worker: Any, work: Work) -> None:
        if work.step == "tune":
            work.artifact.made_from["configuration"]["small is"] = ["other weights"]

    noting(monkeypatch, spoil)
    with pytest.raises(AssetError, match=r"small of tune stands for other files \(.*\) than where the run began"):
        decoded(tmp_path, path_map, jobs=2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_traced_searches_are_the_same_and_earlier_ones_are_traced_afterwards(
    tmp_path: Path, path_map: Path, alone: dict[str, bytes], jobs: int
) -> None:
    for trace in (False, True):
        line = decoded(tmp_path, path_map, jobs=jobs, trace=trace)
        assert run_bytes(tmp_path) == alone
    for decoder in line.experiment.guide.decoders:
        if decoder.best_of is None:
            trace_path = trace_file(line.directory.path, decoder.name, line.guided(decoder).digest)
            assert len(traced(trace_path)) == 6
    begun = line.watch.stages["guide cbs-2-2-3 (trace)"]
    assert (begun.state, begun.done, begun.total) == ("made", 6, 6)


def test_wrong_numbers_of_jobs(tmp_path: Path, path_map: Path) -> None:
    with pytest.raises(ConfigurationError, match="jobs is 0: give at least 1"):
        decoded(tmp_path, path_map, jobs=0)


def test_a_worker_takes_any_function_and_starts_again_after_a_death(tmp_path: Path) -> None:
    """As every executor of the standard library."""
    with LocalWorkers(Setup(tmp_path, Assets(cache=tmp_path / "cache")), 1, threads=1) as workers:
        (worker,) = workers.all().values()
        first = worker.submit(os.getpid).result()
        with pytest.raises(ZeroDivisionError):
            worker.submit(divmod, 1, 0).result()
        assert worker.submit(os.getpid).result() == first
        with pytest.raises(WorkerDied, match=r"^worker 1 ended with code 7 \(.*\); log-worker-1.txt has more"):
            worker.submit(os._exit, 7).result()
        assert worker.submit(os.getpid).result() not in (first, os.getpid())
    assert no_child_is_left()


def test_an_end_before_a_worker_has_come_to_its_work_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As that of a run of which everything is made."""
    with LocalWorkers(Setup(tmp_path, Assets(cache=tmp_path / "cache")), 1, threads=1) as workers:
        (worker,) = workers.all().values()
        futures = [worker.submit(os.getpid) for _ in range(4)]
    assert [future.cancelled() for future in futures[-2:]] == [True, True]
    assert capfd.readouterr().err == "" and no_child_is_left()


def test_ctrl_c_does_not_end_a_worker_that_has_just_begun(tmp_path: Path) -> None:
    """It comes before the new process has said that it leaves Ctrl-C to its parent."""
    with LocalWorkers(Setup(tmp_path, Assets(cache=tmp_path / "cache")), 1, threads=1) as workers:
        (child,) = [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
        child.send_signal(signal.SIGINT)
        (worker,) = workers.all().values()
        assert worker.submit(os.getpid).result() == child.pid


def test_a_worker_s_death_is_told_whatever_its_log_holds(tmp_path: Path) -> None:
    with LocalWorkers(Setup(tmp_path, Assets(cache=tmp_path / "cache")), 1, threads=1) as workers:
        (worker,) = workers.all().values()
        worker.submit(os.write, 2, b"half a \xe2\x82\n").result()
        with pytest.raises(WorkerDied, match=r"^worker 1 ended with code 3 "):
            worker.submit(os._exit, 3).result()
        with pytest.raises(WorkerDied, match=r"^worker 1 was killed by signal 40: "):
            worker.submit(signal.raise_signal, 40).result()


DRIVER = """
import os, sys, time
from pathlib import Path
from trimtab.assets.resolve import Assets
from trimtab.executors.local import LocalWorkers
from trimtab.executors.work import Setup

# no `if __name__ == "__main__"`: a worker does not run the user's script again
folder = Path(sys.argv[1])
with LocalWorkers(Setup(folder, Assets(cache=folder)), 2, threads=1) as workers:
    for name, worker in workers.all().items():
        (folder / name).write_text(str(worker.submit(os.getpid).result()))
    (folder / "ready").touch()
    worker.submit(time.sleep, 600)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_driver(tmp_path: Path, number: signal.Signals) -> None:
    """Neither an idle nor a busy one, however the driver dies."""
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    driver = subprocess.Popen([sys.executable, str(tmp_path / "driver.py"), str(tmp_path)])
    while not (tmp_path / "ready").exists():
        assert driver.poll() is None
        time.sleep(0.05)
    pids = [int((tmp_path / f"worker {index}").read_text()) for index in (1, 2)]
    driver.send_signal(number)
    driver.wait()
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("file", sorted(cli.SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_an_experiment_is_the_same_to_a_worker(file: Path) -> None:
    experiments = (
        [run.experiment for run in load_study(file, find=cli.experiment_file).runs]
        if is_study(file)
        else [load_experiment(file)]
    )
    for experiment in experiments:
        read = Experiment.model_validate_json(experiment.model_dump_json(exclude_unset=True))
        assert read == experiment
        given = [each.model_fields_set for each in experiment.guide.decoders]
        assert [each.model_fields_set for each in read.guide.decoders] == given
