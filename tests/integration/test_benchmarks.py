"""The search's benchmark on the embedded models; `unit/test_benchmark_scripts.py` has every script on tiny ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.real


def run(script: str, *arguments: str, into: Path) -> tuple[str, Any]:
    """What the script prints, and its figures."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(into)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # another test runs beside it
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads(into.read_text(encoding="utf-8"))


def test_search(tmp_path: Path) -> None:
    arguments = ("--workload", "cbs", "--prompts", "1", "--tokens", "3", "--repeats", "1")
    printed, figures = run("search.py", *arguments, into=tmp_path / "search.json")
    row = figures["cbs"]
    assert row["ratio"] == row["seconds"]["reference"] / row["seconds"]["trimtab"]
    assert f"{row['ratio']:.1f}" in printed
