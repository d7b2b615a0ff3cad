"""Several processes and one run directory: one writer, signals, shards, and a look at it from another terminal."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from small_run import SmallRun, run_bytes
from trimtab import cli
from trimtab.pipeline.merge import merge_shards


def stopped(small_run: SmallRun, folder: Path, stage: str, *command: str) -> int:
    """A process of the small run that is halted (not ended) while `stage` is at work."""
    folder.mkdir(exist_ok=True)
    pid = small_run.start(command[0], folder, *command[1:])
    suffix = f"-{command[2].replace('/', '-of-')}" if "--shard" in command else ""
    log = folder / "quickstart" / f"log{suffix}.txt"
    while not (log.exists() and f"{stage}: runs" in log.read_text(encoding="utf-8").rpartition("begins:")[2]):
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE, small_run.errors(folder)
        time.sleep(0.002)
    os.kill(pid, signal.SIGSTOP)
    return pid


def one_line(small_run: SmallRun, folder: Path) -> str:
    (line,) = small_run.errors(folder).splitlines()
    return line


def decoded(folder: Path) -> int:
    return len([*(folder / "quickstart").glob("*.work/0*.jsonl")])


def test_a_second_run_says_who_holds_the_directory_and_a_dead_one_is_taken_over(
    small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path
) -> None:
    pid = stopped(small_run, tmp_path, "synthesize tuning", "run")
    assert small_run.finish("run", tmp_path) == 2
    output = one_line(small_run, tmp_path)
    assert re.search(rf"in use by process {pid} on \S+ since \d{{4}}-\d\d-\d\dT\S+ \(trimtab run quickstart", output)
    os.kill(pid, signal.SIGKILL)
    assert small_run.wait(pid) == -signal.SIGKILL
    assert small_run.finish("run", tmp_path) == 0
    assert run_bytes(tmp_path) == whole
    log = (tmp_path / "quickstart" / "log.txt").read_text()
    assert f"process {pid} on " in log and "was killed: resuming its run" in log


@pytest.mark.parametrize(
    ("number", "code", "stage"),
    [(signal.SIGINT, 130, "tune"), (signal.SIGTERM, 143, "reward"), (signal.SIGINT, 130, "guide bon-4")],
)
def test_ctrl_c_and_sigterm_end_in_one_line_that_says_how_to_go_on(
    small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path, number: signal.Signals, code: int, stage: str
) -> None:
    pid = stopped(small_run, tmp_path, stage, "evaluate")
    os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)
    assert small_run.wait(pid) == code
    output = one_line(small_run, tmp_path)
    assert output.startswith("trimtab: stopped; to resume: trimtab evaluate quickstart --quiet")
    run = tmp_path / "quickstart"
    assert not (run / ".lock.json").exists() and f"{stage}: stopped" in (run / "log.txt").read_text()
    assert small_run.finish("evaluate", tmp_path) == 0
    assert run_bytes(tmp_path) == {name: text for name, text in whole.items() if not name.startswith("report/")}


def test_shards_killed_and_resumed_give_the_bytes_of_the_plain_run(
    small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "quickstart"
    assert small_run.finish("synthesize", tmp_path, "--shard", "1/2") == 2
    assert "run `trimtab reward` before the shards of synthesize" in one_line(small_run, tmp_path)
    assert small_run.finish("reward", tmp_path) == 0
    killed = stopped(small_run, tmp_path, "synthesize tuning", "synthesize", "--shard", "2/2")
    assert small_run.finish("synthesize", tmp_path, "--shard", "1/2") == 0, small_run.errors(tmp_path)
    os.kill(killed, signal.SIGKILL)
    small_run.wait(killed)
    assert small_run.finish("synthesize", tmp_path, "--shard", "2/2") == 0, small_run.errors(tmp_path)
    assert not [*run.glob("synthesize-????????????")] and decoded(tmp_path) == 3 + 1  # of 12 and 4 prompts by 4
    assert small_run.finish("tune", tmp_path) == 0
    assert decoded(tmp_path) == 0

    together = [small_run.start("guide", tmp_path, "--shard", f"{index}/3") for index in (1, 2, 3)]
    assert [small_run.wait(pid) for pid in together] == [0, 0, 0], small_run.errors(tmp_path)
    works = {work.stem: sorted(work.glob("0*.jsonl")) for work in run.glob("guide-*.work")}
    assert sorted(map(len, works.values())) == [1, 1, 3, 3]  # of 6 prompts; 8 rows are 2 of best-of-4 and of CBS 2/2
    costs = {name: [json.loads(file.read_text().split("\n")[-2]) for file in files] for name, files in works.items()}
    assert small_run.finish("guide", tmp_path) == 0, small_run.errors(tmp_path)
    for name, blocks in costs.items():  # a block decoded once more would have taken another time
        seconds = sum(block["seconds"] for block in blocks)
        assert json.loads((run / name / "decode_seconds.json").read_text()) == pytest.approx(seconds, rel=1e-9)
    assert small_run.finish("run", tmp_path) == 0, small_run.errors(tmp_path)
    assert run_bytes(tmp_path) == whole


def test_shards_on_two_machines_are_merged_to_the_bytes_of_the_plain_run(
    small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Each has the run directory as it was before the shards, and a path of its own."""
    here, there, everything = tmp_path / "here", tmp_path / "there", tmp_path / "everything"
    here.mkdir()
    assert small_run.finish("tune", here) == 0, small_run.errors(here)
    shutil.copytree(here, there, symlinks=True)
    for place, shard in ((here, "1/3"), (there, "2/3"), (here, "3/3")):
        assert small_run.finish("guide", place, "--shard", shard) == 0, small_run.errors(place)
    everything.mkdir()
    merge_shards([here / "quickstart", there / "quickstart"], everything / "quickstart")
    assert small_run.finish("run", everything) == 0, small_run.errors(everything)
    assert run_bytes(everything) == whole


def test_a_plain_run_and_shards_keep_each_other_out(small_run: SmallRun, tmp_path: Path) -> None:
    assert small_run.finish("reward", tmp_path) == 0
    pid = stopped(small_run, tmp_path, "synthesize tuning", "synthesize", "--shard", "1/2")
    for refused in (("run",), ("synthesize", "--shard", "1/2"), ("synthesize", "--shard", "1/3")):
        assert small_run.finish(refused[0], tmp_path, *refused[1:]) == 2
        assert f"in use by process {pid} on " in one_line(small_run, tmp_path)
    assert small_run.finish("synthesize", tmp_path, "--shard", "2/2") == 0
    os.kill(pid, signal.SIGKILL)
    small_run.wait(pid)
    pid = stopped(small_run, tmp_path, "synthesize tuning", "synthesize")
    assert small_run.finish("synthesize", tmp_path, "--shard", "2/2") == 2
    os.kill(pid, signal.SIGKILL)
    small_run.wait(pid)


def test_a_cut_records_file_is_mended(small_run: SmallRun, whole: dict[str, bytes], tmp_path: Path) -> None:
    """In the middle of its last line: a finished block's, while others are open, and a whole artifact's."""
    assert small_run.finish("run", tmp_path) == 0
    run = tmp_path / "quickstart"
    for artifact in (*run.glob("guide-????????????"), *run.glob("pairs-????????????")):
        file = artifact / "records.jsonl"
        file.write_bytes(file.read_bytes()[:-20])
    assert small_run.finish("run", tmp_path) == 0, small_run.errors(tmp_path)
    assert run_bytes(tmp_path) == whole
    assert "is damaged (records.jsonl is missing or truncated): making it again" in (run / "log.txt").read_text()


def test_status_from_another_terminal(
    small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["trimtab", "status", str(tmp_path / "quickstart"), *more])
        cli.main()
        return capsys.readouterr().out

    pid = stopped(small_run, tmp_path, "tune", "run")
    output = status()
    assert f"process {pid} on " in output and "is working on it" in output
    assert "guide bon-4" in output and "waits, 8 more" in output
    values = json.loads(status("--json"))["processes"][0]
    assert values["process"]["pid"] == pid and values["process"]["alive"] is True
    states = {stage["name"]: stage["state"] for stage in values["stages"]}
    assert (states["data"], states["tune"], states["guide bon-4"]) == ("made", "runs", "waits")
    assert "made" not in states["report"]
    os.kill(pid, signal.SIGKILL)
    small_run.wait(pid)
    output = status()
    assert f"killed, process {pid} on " in output and "; to resume: trimtab run quickstart" in output
    assert small_run.finish("run", tmp_path) == 0
    assert "finished, last update 0:0" in status()
    states = {stage["name"]: stage["state"] for stage in json.loads(status("--json"))["processes"][0]["stages"]}
    assert set(states.values()) == {"made", "used again"}  # every stage that was announced came to pass
    monkeypatch.setattr("sys.argv", ["trimtab", "status", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "holds no run: give the directory of one" in capsys.readouterr().err
