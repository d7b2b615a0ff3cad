"""Trackers really write what the log says, in one run also where the training was stopped. No network is touched."""

import importlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training_preference import TRAIN, VALIDATION, settings
from test_training_resume import Killed, stops_after

from tiny import llama, tokenizer
from trimtab.errors import ConfigurationError
from trimtab.training.checkpoints import Saving
from trimtab.training.job import TrainingJob
from trimtab.training.preference import tune

FIGURES = {"loss": "train/loss", "rewards/margins": "train/rewards/margins", "eval_loss": "eval/loss"}


def tuned(folder: Path, tracker: str, stops: tuple[int, ...] = ()) -> list[dict[str, float]]:
    """The log of a tuning that is stopped after so many batches each time."""
    for calls in (*stops, 10**6):
        try:
            model, config = llama(0, dtype=torch.float32), settings(trackers=[tracker], epochs=1, evaluations=2)
            job = TrainingJob(
                folder / "made", 0, stops_after(calls), Saving(folder / "work", 0), folder / "trackers" / "tune-0123"
            )
            tune(TRAIN, VALIDATION, model, tokenizer(), config, job)
        except Killed:
            continue
    return [json.loads(line) for line in (folder / "made" / "log.jsonl").read_text().splitlines()]


def curve(log: list[dict[str, float]], figure: str) -> dict[int, float]:
    return {int(entry["step"]): entry[figure] for entry in log if figure in entry}


def records(file: Path) -> Iterator[bytes]:
    """Of a .wandb file: LevelDB's log format behind a head of 7 bytes; a part is a whole record (1) or the last (4)."""
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.parametrize("stops", [(), (9 + 3, 4)])
def test_tensorboard_has_each_step_once(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """Sessions of one training write into one folder, which lies beside the artifacts and not in them."""
    log = tuned(tmp_path, "tensorboard", stops)
    events = EventAccumulator(str(tmp_path / "trackers" / "tune-0123" / "tensorboard")).Reload()
    for figure, name in FIGURES.items():
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx(curve(log, figure), rel=1e-6), figure
        assert len(events.Scalars(name)) == len(found)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"model", "adapter", "log.jsonl"}


def test_a_training_from_the_beginning_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    tuned(tmp_path, "tensorboard")
    for file in (tmp_path / "work").rglob("*"):
        if file.is_file():
            file.unlink()
    tuned(tmp_path, "tensorboard")
    assert len(list((tmp_path / "trackers" / "tune-0123" / "tensorboard").iterdir())) == 1


def test_wandb_offline_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job leaves a folder to `wandb sync`, of the same run id; together they hold each step."""
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    log = tuned(tmp_path, "wandb", (9 + 3,))
    files = sorted((tmp_path / "trackers" / "tune-0123" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    found: dict[str, dict[int, float]] = {name: {} for name in FIGURES.values()}
    for file in files:
        for data in records(file):
            record = Record.FromString(data)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for name in FIGURES.values():
                if name in items:
                    found[name][int(items["train/global_step"])] = float(items[name])
    for figure, name in FIGURES.items():
        assert found[name] == pytest.approx(curve(log, figure)), figure


def test_trackio_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own place, which TRACKIO_DIR moves."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    # in CI all that `dev` asks for is installed, and nothing is to be skipped
    trackio = importlib.import_module("trackio") if os.environ.get("CI") else pytest.importorskip("trackio")
    log = tuned(tmp_path, "trackio", (9 + 3,))
    (run,) = trackio.Api().runs("trimtab")
    assert run.name.startswith("tune-0123-")
    history = trackio.sqlite_storage.SQLiteStorage.get_logs("trimtab", run.name)
    for figure, name in FIGURES.items():
        found = {int(entry["train/global_step"]): entry[name] for entry in history if name in entry}
        assert found == pytest.approx(curve(log, figure)), figure


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="trackers names no-such-tracker: installed are"):
        tuned(tmp_path, "no-such-tracker")
