"""Processes share out the GPUs that this one may use, however they are named; there may be more or fewer of either."""

import os
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

import finished as pipeline
from trimtab.assets.resolve import Assets
from trimtab.cli import SHIPPED
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError
from trimtab.executors.local import LocalWorkers
from trimtab.executors.work import Setup
from trimtab.models.hardware import processes_a_device, visible_devices
from trimtab.pipeline import memory as budget
from trimtab.store.progress import watching
from trimtab.study.command import _jobs
from trimtab.training.trl_arguments import use_one_device

MIG = ["MIG-1a2b", "MIG-3c4d"]
UUIDS = ["GPU-8f2e", "GPU-77aa"]


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, listed: str | None) -> None:
    """A machine on which torch sees so many GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)


@pytest.mark.parametrize(
    ("gpus", "listed", "found"),
    [
        (4, None, ["0", "1", "2", "3"]),
        (1, None, ["0"]),
        (0, None, []),
        (2, "2,3", ["2", "3"]),
        (2, " 2 , 3 ", ["2", "3"]),
        (0, "", []),
        (0, "-1", []),
        (0, "NoDevFiles", []),
        (0, "0,1", []),  # a machine without GPUs, whatever is listed
        (1, "0,-1,1", ["0"]),  # CUDA takes what stands before the first wrong one
        (2, "0,1,7", ["0", "1"]),
        (2, ",".join(UUIDS), UUIDS),
        (1, ",".join(MIG), MIG),  # one process sees one slice only
        (1, MIG[1], MIG[1:]),
    ],
)
def test_devices_are_named_as_the_variable_names_them(
    gpus: int, listed: str | None, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus, listed)
    assert visible_devices() == found


def variables(folder: Path, jobs: int) -> list[str | None]:
    """What each worker is told to find in CUDA_VISIBLE_DEVICES."""
    workers = LocalWorkers(Setup(folder, Assets(cache=folder)), jobs, threads=1)
    return [worker._start.device for worker in workers._workers.values()]


@pytest.mark.parametrize(
    ("gpus", "listed", "jobs", "found"),
    [
        (4, None, 4, ["0", "1", "2", "3"]),
        (4, None, 2, ["0", "1"]),
        (2, None, 5, ["0", "1", "0", "1", "0"]),
        (1, None, 3, ["0", "0", "0"]),
        (0, None, 2, [None, None]),
        (0, "", 2, [None, None]),
        (2, "5,3", 3, ["5", "3", "5"]),
        (1, ",".join(MIG), 2, MIG),
        (2, ",".join(UUIDS), 2, UUIDS),
    ],
)
def test_processes_get_the_devices_in_turn(
    gpus: int, listed: str | None, jobs: int, found: list[str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, gpus, listed)
    assert variables(tmp_path, jobs) == found


def test_a_worker_sees_its_device_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 2, "5,3")
    with LocalWorkers(Setup(tmp_path, Assets(cache=tmp_path)), 2, threads=1) as workers:
        seen = [worker.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() for worker in workers.all().values()]
        threads = [worker.submit(torch.get_num_threads).result() for worker in workers.all().values()]
    assert seen == ["5", "3"] and threads == [1, 1]


@pytest.mark.parametrize(("gpus", "jobs", "share"), [(4, 4, 1), (4, 2, 1), (2, 5, 3), (1, 3, 3), (3, 4, 2)])
def test_a_device_is_counted_for_all_that_share_it(
    gpus: int, jobs: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus, None)
    assert processes_a_device(jobs, "cuda") == share and processes_a_device(jobs, "cpu") == jobs


QUICKSTART = load_experiment(SHIPPED / "quickstart.yaml", [])
SPREAD = load_experiment(SHIPPED / "quickstart.yaml", ["large.device_map=auto"])


def test_rows_of_each_process_fit_its_share_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes on two devices: two of them share one, and each takes rows for half of it."""
    machine(monkeypatch, 2, None)
    monkeypatch.setattr(budget, "device_type", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (20 << 30, 24 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(budget, "MAX_AUTO_ROWS", {True: 1 << 30})
    row = 1 << 20
    rows = {jobs: budget._rows("auto", 1, 0.0, row, False, processes_a_device(jobs, "cuda")) for jobs in (1, 2, 3)}
    assert rows[1] == rows[2] > 1.9 * rows[3]
    assert not budget._takes_all(SPREAD, 2) and budget._takes_all(SPREAD, 1)


def test_a_study_has_a_process_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def study(*experiments: Any) -> Any:
        return types.SimpleNamespace(runs=[types.SimpleNamespace(experiment=each) for each in experiments])

    machine(monkeypatch, 4, None)
    assert _jobs(study(QUICKSTART), None) == 4 and _jobs(study(QUICKSTART), 2) == 2
    assert _jobs(study(QUICKSTART, SPREAD), None) == 1  # which takes all devices by itself
    with pytest.raises(ConfigurationError, match=r"jobs is 2, .* 4 GPUs, and a device_map spreads"):
        _jobs(study(QUICKSTART, SPREAD), 2)
    machine(monkeypatch, 0, None)
    assert _jobs(study(QUICKSTART), None) == 1


def test_several_processes_do_not_each_spread_a_model_over_all_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, 2, None)
    with watching(quiet=True) as watch, pytest.raises(ConfigurationError, match="2 GPUs, and a device_map spreads"):
        pipeline.run(SPREAD, tmp_path, Assets(cache=tmp_path), watch, jobs=2)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("gpus", "batches"), [(0, 1), (1, 1), (4, 1)])
def test_training_keeps_to_the_first_of_several_devices(
    gpus: int, batches: int, caplog: pytest.LogCaptureFixture
) -> None:
    """`Trainer` would put a batch of the given size on each of them, and so train something else."""
    caplog.set_level("INFO")
    arguments = TrainingArguments(output_dir="unused", report_to=[], use_cpu=True)
    arguments._n_gpu = gpus
    use_one_device(arguments)
    assert arguments._n_gpu <= batches and ("first of 4 GPUs" in caplog.text) is (gpus == 4)
    assert arguments.train_batch_size == arguments.per_device_train_batch_size
