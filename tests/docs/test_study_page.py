"""docs/study.md: its file is a sound study, its commands are parsed by the real command line, its links are good."""

import re
import shlex
from pathlib import Path

import pytest

from trimtab import cli
from trimtab.report.study_tables import MEASURES
from trimtab.study.study_file import StudyConfig, load_study

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "study.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_file_is_sound_and_has_every_field(tmp_path: Path) -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "yaml"]
    file = tmp_path / "my-study.yaml"
    file.write_text(block, encoding="utf-8")
    study = load_study(file, ["tune.epochs=2"], cli.experiment_file)
    assert [cell.name for cell in study.cells] == [
        "random-hinge-0.1", "random-hinge-1", "random-sigmoid-0.1", "random-sigmoid-1",
        "margin-hinge-0.1", "margin-hinge-1", "margin-sigmoid-0.1", "margin-sigmoid-1",
        "random-hinge_sft-0.1", "random-hinge_sft-1",
    ]  # fmt: skip
    assert len(study.runs) == 30 and set(study.source) == set(StudyConfig.model_fields)


def test_commands_are_sound(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran = []
    monkeypatch.setattr(
        "trimtab.study.command.run_command", lambda path, find, *_: ran.append(load_study(path, (), find))
    )
    for line in (line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()):
        words = shlex.split(line, comments=True)
        # the models of the full study are on the hub
        monkeypatch.setattr("sys.argv", [*words, "--quick"] if words[1] == "check" else words)
        cli.main()
    assert [study.name for study in ran] == ["slic-smoke", "slic-study-cpu", "slic-study-cpu"]
    assert capsys.readouterr().out == "slic-study: sound; 26 cells, 130 runs\n"


def test_files_are_there() -> None:
    for name in re.findall(r"`((?:tests|src)/[\w/.]+)`", PAGE):
        assert (DOCS.parent / name).exists(), name


def test_the_full_study_has_the_write_up_s_cells() -> None:
    study = load_study(cli.experiment_file("slic-study"), (), cli.experiment_file)
    names = {cell.name for cell in study.cells}
    for strategy in ("random", "margin", "straddle", "flat", "rarer_wins", "best_worst"):
        assert {f"{strategy}-{loss}-{beta}" for loss in ("hinge", "sigmoid") for beta in ("0.1", "1")} <= names
    cpu = load_study(cli.experiment_file("slic-study-cpu"), (), cli.experiment_file)
    assert len([cell for cell in cpu.cells if cell.labels["strategy"] in ("random", "margin", "straddle")]) == 12
    assert all(len(cell.repeats) >= 3 for cell in (*study.cells, *cpu.cells))


def test_every_measure_has_a_heading_and_a_meaning() -> None:
    assert all(measure.heading and measure.meaning for measure in MEASURES.values())
