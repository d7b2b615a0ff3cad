"""A small real run: the quickstart with a trained reward, on tiny random models; five decoders, all stages.

About five seconds of one core. A checkpoint is written at every step, so that a kill can find any of them half written.
"""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tiny_hub import tiny_hub
from warm import Warm

SETTINGS = [
    "checkpoint_seconds=0", "reward.max_length=64", "reward.training.snippet_words=[4,10]",
    "reward.training.batch_size=8", "reward.training.frozen_layers=1", "data.reward_reviews=40",
    "data.reward_heldout=20", "data.judge_reviews=20", "data.tuning_prompts=12", "data.validation_prompts=4",
    "data.test_prompts=6", "guide.max_new_tokens=8", "guide.rows=8", "synthesize.max_new_tokens=8",
    "synthesize.rows=16", "synthesize.samples=4", "evaluate.bootstrap=100", "tune.epochs=2", "tune.batch_size=4",
    "tune.lora.rank=2", "tune.lora.top_layers=1", "tune.evaluations=3",
    "guide.decoders=[{model: large},{model: large, successors: 4},{best_of: bon-4},"
    "{model: large, width: 2, successors: 2, chunk: 3},{model: untuned, beta: 1.0}]",
]  # fmt: skip
TIMES = {"seconds.json", "decode_seconds.json", "files.json"}
"""Files of an artifact that hold times, or the lengths of files that do."""


class SmallRun:
    """Starts the run's commands; each directory `folder` holds one run."""

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm, self.path_map = warm, tiny_hub(folder / "hub")
        os.environ["TRIMTAB_CACHE"] = str(folder / "cache")

    def arguments(self, stage: str, runs: Path | str, *more: str) -> list[str]:
        """A command's words; `runs` is a folder or a URL, `more` are options such as --shard."""
        options = ["--quiet", "--runs", str(runs), "--path-map", str(self.path_map), *more]
        return [stage, "quickstart", *options, "--set", *SETTINGS]

    def start(self, stage: str, folder: Path, *more: str, environment: Mapping[str, str] | None = None) -> int:
        """Start a command and return its process id."""
        words = self.arguments(stage, folder, *more)
        return self.warm.start(*words, errors=folder / "errors.txt", environment=environment)

    def wait(self, pid: int) -> int:
        return self.warm.wait(pid)

    def finish(self, stage: str, folder: Path, *more: str) -> int:
        """Run a command to its end and return its exit code."""
        return self.wait(self.start(stage, folder, *more))

    @staticmethod
    def errors(folder: Path) -> str:
        """What the last command wrote to standard error."""
        return (folder / "errors.txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Whole:
    """What a run that was never killed leaves, times apart, and the processor time that it took."""

    files: dict[str, bytes]
    seconds: float


def run_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of every artifact of the run in `folder`, and the table, times apart."""
    run = folder / "quickstart"
    left = [path.name for path in run.iterdir() if path.suffix in (".partial", ".work", ".tmp")]
    assert not left, left
    files = {
        file.relative_to(run).as_posix(): file.read_bytes()
        for artifact in run.glob("*-????????????")
        for file in artifact.rglob("*")
        if file.is_file() and file.name not in TIMES
    }
    table = run / "report" / "table.csv"
    if table.exists():
        rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))
        timeless = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
        files["report/table.csv"] = repr(timeless).encode()
    return files
