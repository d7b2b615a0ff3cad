"""docs/command-line.md: the real command line parses its commands; all commands and shipped files are on it."""

import re
from pathlib import Path

import pytest
import yaml

from noted_runs import note_runs, words_of
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.config.file import parse_experiment

PAGE = (Path(__file__).parents[2] / "docs/command-line.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [words_of(line) for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
OF_A_RUN = ("status", "trace", "compare", "export", "runs", "merge", "save", "push", "serve")
"""Commands for what a run has made: here there is none, and they say so."""


def test_command_lines_are_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command is parsed by the real command line; what it would run is checked, not run."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tiny_hub(tmp_path / "hub")))
    monkeypatch.chdir(tmp_path)
    (yaml_block,) = [text for kind, text in BLOCKS if kind == "yaml"]
    (tmp_path / "my-experiment.yaml").write_text(yaml_block, encoding="utf-8")
    (tmp_path / "prompts.csv").write_text("prompt\n" + "".join(f"Film {number}\n" for number in range(40)))
    ran, studied = note_runs(monkeypatch), []
    monkeypatch.setattr("trimtab.study.command.run_command", lambda path, *_: studied.append(path.stem))
    for command in COMMANDS:
        monkeypatch.setattr("sys.argv", command)
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            lines = capsys.readouterr().err.splitlines()
            if command[1] in OF_A_RUN:  # parsed, and refused for want of a run
                assert end.code == 2 and len(lines) == 1, (command, lines)
            elif command[1] == "check" and "--quick" not in command:  # the tiny reviews are fewer than the real ones
                assert end.code == 2 and lines[-1].startswith("trimtab: data.tuning_prompts asks for 128"), lines
            else:
                assert end.code in (0, None), (command, lines)
    assert [until for _, until in ran] == [
        "report", "report", "tune", "guide", "guide", "report", "report", "report", "guide", "tune", "report",
    ]  # fmt: skip
    assert {experiment.name for experiment, _ in ran} == {"quickstart", "my-experiment"}
    assert studied == ["slic-study-cpu"]


def test_the_experiment_is_sound() -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "yaml"]
    assert parse_experiment(yaml.safe_load(block), origin="command-line.md").name == "my-experiment"


def test_every_command_and_every_shipped_experiment_is_named() -> None:
    words = set(re.findall(r"[\w-]+", PAGE))
    assert set(cli.COMMANDS) <= words
    assert {path.stem for path in cli.SHIPPED.glob("*.yaml")} <= words
