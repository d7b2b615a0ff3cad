"""The log and the status of a run, and `trimtab status`, which reads the status from another terminal."""

import contextlib
import dataclasses
import io
import json
import logging
import time
import warnings
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from trimtab.errors import RunError
from trimtab.store import status as status_file
from trimtab.store.lock import Holder
from trimtab.store.log import recording
from trimtab.store.progress import Watch
from trimtab.store.status import print_status, read_statuses
from trimtab.store.stopping import Terminated

HOUR = 3600.0


def run_of(folder: Path, holder: Holder | None) -> None:
    """A run that was at work on `tune` for an hour, 8 batches a minute, and was last updated two hours ago."""
    updated = time.time() - 2 * HOUR
    stage = {"name": "tune", "state": "runs", "done": 480, "total": 960, "began": updated - HOUR, "updated": updated}
    values = {"shard": None, "updated": updated, "stages": [{**stage, "rate": 8 / 60}]}
    (folder / "status.json").write_text(json.dumps(values))
    if holder is not None:
        (folder / ".lock.json").write_text(json.dumps(dataclasses.asdict(holder)))


def status_text(folder: Path, *, as_json: bool = False) -> str:
    console = Console(width=160, file=io.StringIO(), record=True)
    print_status(folder, console, as_json=as_json)
    return console.export_text()


@pytest.mark.parametrize("holder", [None, dataclasses.replace(Holder.this(), pid=2**22 + 1)], ids=["left", "died"])
def test_time_stands_still_for_a_process_that_is_gone(tmp_path: Path, holder: Holder | None) -> None:
    run_of(tmp_path, holder)
    table = status_text(tmp_path)
    if holder is None:
        assert "last update 2:00:00 ago" in table and "1:00:00  1:00:00 left" in table
    else:
        assert f"killed, process {holder.pid}" in table and "1:00:00  killed, 1:00:00 left" in table
    assert "0:00:00" not in table
    (stage,) = json.loads(status_text(tmp_path, as_json=True))["processes"][0]["stages"]
    assert stage["seconds_left"] == pytest.approx(HOUR)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Terminated(), "killed by SIGTERM"),
        (KeyboardInterrupt(), "stopped by Ctrl-C"),
        (RunError("the disk is full"), "failed (the disk is full)"),
    ],
)
def test_the_status_says_how_a_run_ended(tmp_path: Path, error: BaseException, words: str) -> None:
    """After a kill it once said no more than "stopped"."""
    watch = Watch()
    with pytest.raises(type(error)), recording(tmp_path, watch, previous=None), watch("tune"):
        raise error
    assert f"{words}; run the same command again to resume" in status_text(tmp_path)


def test_time_goes_on_for_a_process_that_lives(tmp_path: Path) -> None:
    run_of(tmp_path, Holder.this())
    assert "3:00:00  0:00:00 left" in status_text(tmp_path)


def test_a_new_session_replaces_the_status_of_the_one_before(tmp_path: Path) -> None:
    run_of(tmp_path, None)
    watch = Watch()
    with recording(tmp_path, watch, previous=None):
        (status,) = read_statuses(tmp_path)
        assert status.stages == [] and time.time() - status.updated < 60


def test_a_disk_without_room_for_the_status_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise RunError("status.json cannot be written (No space left on device)")

    watch = Watch()
    with pytest.raises(KeyboardInterrupt), recording(tmp_path, watch, previous=None), watch("tune") as advance:
        monkeypatch.setattr(status_file, "write_text", full)
        advance(1, 10)
        raise KeyboardInterrupt


def test_a_run_takes_away_what_it_brought_and_nothing_else(tmp_path: Path) -> None:
    """Who listens to the watch before a run does so after it: a second run in one notebook is shown, too."""
    watch, changes = Watch(), []
    watch.listeners.append(lambda stage: changes.append((stage.name, stage.state)))
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        with recording(tmp_path / run, watch, previous=None), watch(run):
            pass
    assert changes == [("one", "runs"), ("one", "made"), ("two", "runs"), ("two", "made")]
    assert len(watch.listeners) == 1
    assert "two: made" in (tmp_path / "two/log.txt").read_text() and "two" not in (tmp_path / "one/log.txt").read_text()


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_logging_is_afterwards_as_it_was(tmp_path: Path, captured: bool, fails: bool) -> None:
    loggers = [logging.getLogger(name) for name in ("trimtab", "py.warnings")]

    def state() -> list[object]:
        each = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
        return [each, warnings.showwarning, list(warnings.filters), logging.getLogger().level]

    shown_by = warnings.showwarning
    try:
        if captured:  # as a program does that runs trimtab in itself
            logging.captureWarnings(True)
        before = state()
        with contextlib.suppress(RunError), recording(tmp_path, Watch(), previous=None):
            if fails:
                raise RunError("the disk is full")
        assert state() == before
    finally:
        logging.captureWarnings(False)
        warnings.showwarning = shown_by
