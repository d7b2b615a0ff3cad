"""Every block of the README is run, on tiny models behind a path map that gives them the real names."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import trimtab
from noted_runs import note_runs
from tiny import llama
from tiny_hub import save_causal_lm, tiny_hub
from trimtab import cli
from trimtab.config.file import parse_experiment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OTHERS = ("assets", "entries", "guides", "status", "trace", "merge", "push")  # commands that are tested elsewhere
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_all_blocks_are_of_a_kind_that_is_exercised() -> None:
    assert {name for name, _ in BLOCKS} == {"bash", "python", "yaml"}


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tiny_hub(tmp_path / "hub")))
    monkeypatch.chdir(tmp_path)
    save_causal_lm(tmp_path / "runs/quickstart/tuned", llama(9))
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})  # the README is ours
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_command_lines_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trimtab command is parsed by the real command line; what it would run is checked, not run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-experiment.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    ran = note_runs(monkeypatch)
    studied = []
    monkeypatch.setattr("trimtab.study.command.run_command", lambda path, *_: studied.append(path.stem))
    commands = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    for command in commands:
        if command[0] == "trimtab" and command[1] not in (
            "assets",
            "entries",
            "guides",
            "status",
            "trace",
            "merge",
            "push",
        ):
            monkeypatch.setattr("sys.argv", command)
            cli.main()
    assert [(experiment.name, until) for experiment, until in ran] == [
        ("quickstart", "report"),
        ("quickstart", "tune"),
        ("quickstart", "guide"),
        ("quickstart", "guide"),
        ("quickstart", "report"),
        ("quickstart", "guide"),
        ("quickstart", "guide"),
        ("my-experiment", "report"),
    ]
    assert studied == ["slic-study-cpu"]
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines()}
    assert {command[1] for command in commands if command[0] == "make"} <= targets


def test_yaml_blocks_are_experiments() -> None:
    for block in blocks("yaml"):
        parse_experiment(yaml.safe_load(block), origin="README.md")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_assets_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["trimtab", "assets"])
    cli.main()
    printed = capsys.readouterr().out
    assert "google/gemma-3-270m" in printed and "not downloaded" in printed


def test_public_names_are_few_and_all_there() -> None:
    assert len(trimtab.__all__) <= 20
    assert sorted(trimtab.__all__) == trimtab.__all__ == sorted(trimtab._MODULES)
    for name in trimtab.__all__:
        assert trimtab.__getattr__(name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trimtab.__getattr__("nothing")
