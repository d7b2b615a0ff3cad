"""Each script of `benchmarks/` runs, in its smallest form, and writes the figures that it prints."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("benchmarks")]


def run(script: str, *arguments: str, into: Path) -> tuple[str, Any]:
    """What the script prints, and its figures."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads(into.read_text(encoding="utf-8"))


@pytest.mark.parametrize("workload", ["cbs", "bon", "eft", "cbs-cross", "sampling", "sampling-large-vocabulary"])
def test_search(workload: str, tmp_path: Path) -> None:
    arguments = ("--workload", workload, "--prompts", "1", "--tokens", "3", "--repeats", "2")
    printed, figures = run("search.py", *arguments, into=tmp_path / "search.json")
    row = figures[workload]
    seconds, spread = row["seconds"], row["spread"]
    assert row["ratio"] == seconds["reference"] / seconds["trimtab"]
    assert row["floor_share"] == seconds["floor"] / seconds["trimtab"]
    for kind, (low, high) in spread.items():
        assert 0 < low <= seconds[kind] <= high
    assert all(math.isfinite(peak) and peak >= 0 for peak in row["peak_gigabytes"].values())
    assert workload in printed and f"{row['ratio']:.1f}" in printed


def test_search_curves(tmp_path: Path) -> None:
    arguments = ("--curve", "prompts", "--points", "1", "2", "--figure", str(tmp_path / "curves.svg"))
    _, figures = run("search_curves.py", *arguments, into=tmp_path / "curves.json")
    assert [row["prompts"] for row in figures["prompts"]] == [1, 2]
    assert "<svg" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


def test_synthesis(tmp_path: Path) -> None:
    arguments = ("--prompts", "1", "--samples", "2", "--tokens", "3", "--repeats", "1")
    _, figures = run("synthesis.py", *arguments, into=tmp_path / "synthesis.json")
    assert set(figures) == {"generate", "trimtab"}
    for row in figures.values():
        assert row["samples_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["tokens_per_second"] * row["seconds"] <= 2 * 3 + 1e-6  # some may have ended before


def test_training(tmp_path: Path) -> None:
    arguments = ("--variant", "lora-top-12", "--pairs", "16", "--repeats", "1", "--dtype", "float32")
    _, figures = run("training.py", *arguments, into=tmp_path / "training.json")
    ours, theirs = (figures["lora-top-12"][kind]["losses"] for kind in ("trimtab", "trl, same batches"))
    assert len(ours) == 1 and ours == pytest.approx(theirs, abs=1e-3)


def test_drift(tmp_path: Path) -> None:
    """In float32 the cached values are those of whole passes to 5e-6 nats a token and model."""
    arguments = ("--prompts", "1", "--tokens", "6", "--dtype", "float32")
    _, figures = run("drift.py", *arguments, into=tmp_path / "drift.json")
    assert 0 < figures["from caches, against one pass"]["mean_a_token"] < 1e-5
    assert figures["one pass, against float32"]["largest_a_value"] == 0  # the copies are the models themselves
