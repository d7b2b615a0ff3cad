"""How many processes a launch starts: what is asked for, what the file says, one for each GPU; and what is refused."""

import sys
from pathlib import Path

import pytest
import torch

from trimtab import cli
from trimtab.cli.launch import configuration, planned_launch, process_count
from trimtab.errors import ConfigurationError


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(f"distributed_type: MULTI_GPU\n{text}\n")
    return file


@pytest.mark.parametrize(
    ("text", "wanted", "gpus", "count"),
    [
        ("", None, 4, 4),
        ("", 2, 4, 2),
        ("", 3, 0, 3),
        ("num_processes: 2", None, 4, 2),
        ("num_processes: 2", 3, 4, 3),
        ("num_machines: 2", None, 4, 8),
    ],
)
def test_as_many_as_are_asked_for_or_written_or_there(
    text: str, wanted: int | None, gpus: int, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, gpus)
    assert process_count(written(tmp_path, text), wanted) == count


@pytest.mark.parametrize("gpus", [0, 1, 4])
@pytest.mark.parametrize("number", [0, -1, -4])
def test_none_and_fewer_are_not_taken_for_no_answer(
    number: int, gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--processes 0` once started one for each GPU."""
    machine(monkeypatch, gpus)
    with pytest.raises(ConfigurationError, match=rf"--processes is {number}: give at least 1, or leave it out"):
        planned_launch("ddp", number)
    for name in ("num_processes", "num_machines"):
        with pytest.raises(ConfigurationError, match=rf"{name} in .*mine.yaml is {number}: give at least 1"):
            process_count(written(tmp_path, f"{name}: {number}"), None)


@pytest.mark.parametrize("value", ["yes", "on", "2.0", "2.7", "[2]", "'2'", "two"])
@pytest.mark.parametrize("name", ["num_processes", "num_machines"])
def test_counts_of_a_file_are_whole_numbers(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """YAML reads `yes` as true, which Python takes for 1; a fraction was cut."""
    machine(monkeypatch, 4)
    with pytest.raises(ConfigurationError, match=rf"{name} in .*mine.yaml is .* and must be a whole number: mend it"):
        process_count(written(tmp_path, f"{name}: {value}"), None)


@pytest.mark.parametrize(
    ("gpus", "wanted", "line"),
    [
        (0, None, "there is nothing to launch on 0 GPUs: leave out --launch, or say in --processes"),
        (1, None, "there is nothing to launch on 1 GPUs"),
        (4, 1, "there is nothing to launch on 4 GPUs"),
        (2, 3, "3 processes are to be launched on 2 GPUs: give --processes 2"),
    ],
)
def test_what_cannot_be_launched_is_one_line(
    gpus: int, wanted: int | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus)
    with pytest.raises(ConfigurationError, match=line):
        process_count(configuration("ddp"), wanted)


@pytest.mark.parametrize("option", [("--jobs", "0"), ("--jobs", "-2")])
def test_counts_below_one_end_the_command_in_one_line(
    option: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["trimtab", "run", "quickstart", "--runs", str(tmp_path), *option])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed == f"trimtab: jobs is {option[1]}: give at least 1\n"


def test_no_processes_end_the_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["tune", "quickstart", "--runs", str(tmp_path), "--launch", "ddp", "--processes", "0"]
    monkeypatch.setattr(sys, "argv", ["trimtab", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "trimtab: --processes is 0: give at least 1, or leave it out\n"
