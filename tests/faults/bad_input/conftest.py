"""The world that the tables of faults share; its run is made once."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bad_input.world import World, command
from tiny_hub import tiny_hub


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The whole line, run once."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TRIMTAB_CACHE", str(folder / "cache"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        tiny_hub(folder / "hub")
        world = World(folder / "hub", folder / "made", folder / "runs", folder / "bad", monkeypatch)
        said = command(world, "run", runs=world.made)
        assert said.code == 0, said.err
        shutil.copytree(world.made, world.runs, symlinks=True)
        yield world


@pytest.fixture
def world(finished: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The finished run, and a folder of its own to break things in."""
    (tmp_path / "bad").mkdir()
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(finished, bad=tmp_path / "bad", monkeypatch=monkeypatch)
