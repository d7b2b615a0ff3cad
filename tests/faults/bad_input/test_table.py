"""Every bad input of the table gives its one line and exit code 2, and leaves what was there."""

import re
from pathlib import Path

import pytest

from bad_input.table import TABLE, Fault
from bad_input.world import World, command, trimtab


def snapshot(folder: Path) -> dict[str, int]:
    """What lies in the finished run, with the times of its artifacts' changes."""
    return {
        str(path): path.stat().st_mtime_ns for path in folder.glob("quickstart/*-*/*") if ".partial" not in str(path)
    }


@pytest.mark.parametrize("fault", TABLE, ids=lambda fault: f"{fault.part}: {fault.what}")
def test_one_line_exit_code_2_and_nothing_lost(fault: Fault, world: World) -> None:
    before = snapshot(world.runs)
    said = fault.happen(world)
    printed = [line for line in said.err.splitlines() if not line.startswith("/") and line.strip() != "warnings.warn("]
    assert said.code == 2, said
    assert len(printed) == 1 and "Traceback" not in said.err, said.err
    pattern = "trimtab: " + ".*".join(map(re.escape, fault.line.split("…")))
    assert re.fullmatch(pattern, printed[0]), printed[0]
    assert before.items() <= snapshot(world.runs).items()
    assert not (Path.cwd() / "ran").exists()  # what faults of trust would have written


@pytest.mark.parametrize("what", ["on a full disk", "on a disk too full for weights"])
def test_once_there_is_space_the_same_command_goes_on_to_the_same_bytes(what: str, world: World) -> None:
    (fault,) = (fault for fault in TABLE if fault.what == what)
    assert fault.happen(world).code == 2
    world.monkeypatch.undo()
    said = command(world, "evaluate", runs=world.bad / "runs")
    assert said.code == 0, said.err
    assert records(world.bad / "runs") == records(world.made)


def records(runs: Path) -> dict[str, bytes]:
    """All records and weights of a run."""
    files = [*runs.glob("quickstart/*-*/*.jsonl"), *runs.glob("quickstart/tune-*/model/*.safetensors")]
    return {file.relative_to(runs).as_posix(): file.read_bytes() for file in files}


def test_the_table_is_long_enough_and_names_each_fault_once() -> None:
    names = [(fault.part, fault.what) for fault in TABLE]
    assert len(set(names)) == len(names) >= 60


def test_a_line_that_an_error_would_break_is_one_line_and_moves_no_cursor(world: World) -> None:
    """A value may hold line breaks and control characters; the terminal is shown their escapes."""
    said = trimtab(world.monkeypatch, "check", "quickstart", "--set", "guide.stop.a\x1b[31m\nb=1")
    assert said.code == 2
    assert "\x1b" not in said.err and said.err.count("\n") == 1
