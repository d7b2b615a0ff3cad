"""SIGKILL at random moments of every stage; the same command goes on and ends in the same bytes."""

import json
import random
import signal
from collections import Counter
from pathlib import Path

import psutil

from small_run import SmallRun, Whole, run_bytes
from warm import killed

KILLS, KILLS_WITH_WORKERS = 50, 20
EACH = 4
"""Kills of one run at most: figures are drawn at one go, and must get the time for it at last."""
LONGEST = 0.5
"""A process is killed at the latest after this share of a whole run's processor time, on this machine and now."""
LONGEST_WITH_WORKERS = 3.0
"""The same with two workers, whose start takes more than a whole run: about eight seconds for five."""


def open_stage(folder: Path) -> str:
    """The stage at work when the process was killed."""
    status = folder / "quickstart" / "status.json"
    if not status.exists():
        return "start"
    running = [stage["name"] for stage in json.loads(status.read_text())["stages"] if stage["state"] == "runs"]
    return running[0].partition(" ")[0] if running else "between"


def test_fifty_kills_each_resumed_to_the_same_bytes(small_run: SmallRun, whole_run: Whole, tmp_path: Path) -> None:
    whole, longest = whole_run.files, LONGEST * whole_run.seconds
    draw, kills, runs = random.Random(20), Counter[str](), 0
    while kills.total() < KILLS:
        runs += 1
        folder = tmp_path / str(runs)
        folder.mkdir()
        until = "run" if runs % 3 == 1 else "evaluate"  # figures are a third of a run's time
        for number in range(EACH + 1):
            pid = small_run.start(until, folder)
            if number < EACH and kills.total() < KILLS:
                killed(pid, draw.uniform(0.05, longest))
            code = small_run.wait(pid)
            if code != -signal.SIGKILL:
                break
            kills[open_stage(folder)] += 1
        assert code == 0, small_run.errors(folder)
        expected = {name: text for name, text in whole.items() if until == "run" or not name.startswith("report/")}
        assert run_bytes(folder) == expected, f"run {runs}"
    print(f"{kills.total()} kills in {runs} runs of {whole_run.seconds:.1f} s: {dict(kills)}")
    assert kills.total() == KILLS and len(kills) >= 4, kills


def test_twenty_kills_of_a_driver_with_two_workers(small_run: SmallRun, whole_run: Whole, tmp_path: Path) -> None:
    """Resumed to the same bytes, and no worker is left."""
    expected = {name: text for name, text in whole_run.files.items() if not name.startswith("report/")}
    longest = LONGEST_WITH_WORKERS * whole_run.seconds
    draw, kills, runs = random.Random(21), Counter[str](), 0
    while kills.total() < KILLS_WITH_WORKERS:
        runs += 1
        folder = tmp_path / str(runs)
        folder.mkdir()
        for number in range(EACH + 1):
            pid = small_run.start("evaluate", folder, "--jobs", "2")
            if number < EACH and kills.total() < KILLS_WITH_WORKERS:
                workers = killed(pid, draw.uniform(longest / 3, longest))
                _, left = psutil.wait_procs(workers, timeout=60)
                assert not left
            code = small_run.wait(pid)
            if code != -signal.SIGKILL:
                break
            kills[open_stage(folder)] += 1
        assert code == 0, small_run.errors(folder)
        assert run_bytes(folder) == expected, f"run {runs}"
    print(f"{kills.total()} kills in {runs} runs: {dict(kills)}")
