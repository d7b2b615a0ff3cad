"""A small world to make mistakes in: tiny models and data behind a path map, a run that is done, and what can break."""

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trimtab import cli

# What every command of the table is given besides its own faults.
SMALL = (
    "reward.max_length=128", "reward.training=null", "reward.model=lvwerra/distilbert-imdb", "judge=sentiment",
    "reward.positive_label=POSITIVE", "data.reward_reviews=40", "data.reward_heldout=20", "data.judge_reviews=20",
    "data.tuning_prompts=8", "data.validation_prompts=4", "data.test_prompts=4", "guide.max_new_tokens=6",
    "guide.decoders=[{}]", "synthesize.samples=4", "synthesize.max_new_tokens=6", "evaluate.bootstrap=100",
    "tune.batch_size=8", "tune.evaluations=1", "tune.lora.rank=2", "tune.lora.top_layers=1",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """`hub` holds sound models and data, `made` a finished run, `runs` one that goes on, `bad` broken things."""

    hub: Path
    made: Path
    runs: Path
    bad: Path
    monkeypatch: pytest.MonkeyPatch

    def copy(self, source: str) -> Path:
        """A copy of a folder of the hub, to be broken."""
        return Path(shutil.copytree(self.hub / source, self.bad / source))

    def write(self, name: str, content: str | bytes) -> Path:
        """A file among the broken things."""
        file = self.bad / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def pairs(self, *rows: dict[str, Any], splits: Sequence[str] = ("train", "validation", "test")) -> Path:
        """A preference data set whose splits all have these rows, each a sound one but for what is given."""
        sound = {"prompt": "This film", "responses": [" is good", " is bad"], "chosen": 0}
        for split in splits:
            self.write(f"pairs/{split}.jsonl", "".join(json.dumps({**sound, **row}) + "\n" for row in rows))
        return self.bad / "pairs"

    def artifact(self, stage: str) -> Path:
        """The folder of a stage of the finished run, in a copy of the run that can be broken."""
        shutil.copytree(self.made, self.bad / "runs", symlinks=True)
        return next(path for path in (self.bad / "runs" / "quickstart").glob(f"{stage}-*"))

    def edit(self, file: Path, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the object in a JSON file."""
        values = json.loads(file.read_text(encoding="utf-8"))
        change(values)
        file.write_text(json.dumps(values), encoding="utf-8")


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


def trimtab(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Said:
    """The command line in this process, as its entry point runs it."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    monkeypatch.setattr(sys, "argv", ["trimtab", *arguments])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def command(world: World, stage: str, *overrides: str, runs: Path | None = None, path_map: Path | None = None) -> Said:
    """`trimtab STAGE quickstart` on the world's models and data."""
    places = ["--runs", str(runs or world.runs), "--path-map", str(path_map or world.hub / "paths.yaml")]
    return trimtab(world.monkeypatch, stage, "quickstart", "--quiet", *places, "--set", *SMALL, *overrides)
