"""Commands that note what they would run."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment


def note_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Experiment, str]]:
    """From now on commands only note the experiment and the stage that they would run up to."""
    ran: list[tuple[Experiment, str]] = []

    def noted(experiment: Experiment, runs: str, assets: object, watch: object, until: str, *_: Any, **__: Any) -> Any:
        ran.append((experiment, until))
        return SimpleNamespace(path=Path(runs) / experiment.name)

    monkeypatch.setattr("trimtab.executors.run.run", noted)
    monkeypatch.setattr("trimtab.assets.resolve.Assets", without_the_pages_map)
    monkeypatch.setattr(cli, "_print_report", lambda made: None)
    return ran


def without_the_pages_map(path_map: Path | None = None, download: bool = True) -> Assets:
    """The path map that a page names is its reader's own."""
    return Assets(path_map=path_map if path_map is not None and path_map.is_file() else None, download=download)


def words_of(line: str) -> list[str]:
    """The words of a `trimtab` command; where accelerate launches it, its own parser has found the rest sound."""
    words = shlex.split(line, comments=True)
    if words[:2] != ["accelerate", "launch"]:
        return words
    from accelerate.commands.launch import launch_command_parser

    launch = launch_command_parser().parse_args(words[2:])
    assert launch.module
    return [launch.training_script, *launch.training_script_args]
