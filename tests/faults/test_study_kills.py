"""A study of two cells, killed at random moments and gone on with, ends in the bytes of one that was not."""

import random
import signal
from pathlib import Path

from small_run import SmallRun
from small_study import save_study, study_bytes
from warm import Warm, killed

KILLS = 5
EACH = 4
"""Kills of one study at most: figures are drawn at one go, and must get the time for it at last."""
LONGEST = 0.6
"""A process is killed at the latest after this share of a whole study's processor time, on this machine and now."""
GRID = {"tune.loss": ["hinge", "sigmoid"]}


def start(warm: Warm, small_run: SmallRun, folder: Path) -> int:
    file = save_study(folder, GRID, overrides={"evaluate.kl_samples": 0})
    options = ["--quiet", "--runs", str(folder), "--path-map", str(small_run.path_map), "--threads", "1"]
    return warm.start("study", str(file), *options, errors=folder / "errors.txt")


def test_a_killed_study_goes_on_to_the_same_bytes_and_tables(warm: Warm, small_run: SmallRun, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    pid = start(warm, small_run, whole)
    assert warm.wait(pid) == 0, small_run.errors(whole)
    longest = LONGEST * warm.processor_seconds(pid)
    expected = study_bytes(whole)
    assert any(name.startswith("report/table") for name in expected)
    draw, kills, studies = random.Random(5), 0, 0
    while kills < KILLS:
        studies += 1
        folder = tmp_path / str(studies)
        folder.mkdir()
        for number in range(EACH + 1):
            pid = start(warm, small_run, folder)
            if number < EACH and kills < KILLS:
                killed(pid, draw.uniform(longest / 10, longest))
            code = warm.wait(pid)
            if code != -signal.SIGKILL:
                break
            kills += 1
        assert code == 0, small_run.errors(folder)
        assert study_bytes(folder) == expected, f"study {studies}"
    print(f"{kills} kills in {studies} studies")
