"""The run directory: artifacts are whole or absent, names follow content, blocks are kept."""

import errno
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from trimtab.errors import ConfigurationError, RunError
from trimtab.records import Generation, Prompt, read_jsonl
from trimtab.store.artifacts import RunDirectory, read_seconds
from trimtab.store.blocks import Block, Plan, Shard, ensure_plan, finished, merge_blocks, write_block
from trimtab.store.files import SEAL, write_text

PROMPTS = [Prompt(f"p{number}", f"text {number}") for number in range(7)]


def decode_share(work, prompts, size, decode, shard=None):
    """What the driver and its workers do."""
    plan = ensure_plan(work, len(prompts), size)
    for number in range(plan.blocks):
        if (shard is None or shard.owns(number)) and not finished(work, plan, number):
            start = number * plan.prompts_a_block
            block = decode(prompts[start : start + plan.prompts_a_block])
            write_block(work, plan, number, block, f"device {number % 2}")


def decode(prompts: Sequence[Prompt]) -> Block:
    records = [Generation(each.id, each.text, 0, [1], [2], f" {each.id}", "length") for each in prompts]
    return Block(records, {"large": 10.0 * len(prompts)}, 0.5)


def test_a_digest_follows_configuration_inputs_and_nothing_else(tmp_path: Path) -> None:
    one, two = RunDirectory(tmp_path / "one"), RunDirectory(tmp_path / "two")
    first = one.artifact("data", {"a": 1, "b": 2}, [])
    assert first.digest == two.artifact("data", {"b": 2, "a": 1}, []).digest
    assert first.digest != one.artifact("data", {"a": 1, "b": 3}, []).digest
    assert first.digest != one.artifact("other", {"a": 1, "b": 2}, []).digest
    assert one.artifact("next", {}, [first]).digest != one.artifact("next", {}, []).digest


def test_an_artifact_is_whole_or_absent(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    artifact = run.artifact("stage", {}, [])
    with pytest.raises(ZeroDivisionError), run.writing(artifact) as folder:
        write_text(folder / "half.txt", ["x"])
        write_text(artifact.work / "block.txt", ["y"])
        raise ZeroDivisionError
    assert not artifact.whole and not artifact.folder.exists()
    with run.writing(artifact) as folder:
        assert not list(folder.iterdir())  # what was half made is made anew, what was finished is kept
        assert (artifact.work / "block.txt").exists()
    assert artifact.whole and not artifact.partial.exists() and not artifact.work.exists()


def test_a_file_that_lost_its_end_makes_the_artifact_absent(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    artifact = run.artifact("stage", {}, [])
    for _ in range(2):
        with run.writing(artifact) as folder:
            write_text(folder / "records.jsonl", ["one\n", "two\n"])
        assert artifact.whole
        (artifact.folder / "records.jsonl").write_text("one\nt")
        assert not artifact.whole


@pytest.mark.parametrize("left", [b"", b"{", b"\xff\xfe\x00", b"\0\0"])
def test_a_seal_that_cannot_be_read_makes_the_artifact_absent(tmp_path: Path, left: bytes) -> None:
    run = RunDirectory(tmp_path)
    artifact = run.artifact("stage", {}, [])
    with run.writing(artifact):
        pass
    (artifact.folder / SEAL).write_bytes(left)
    assert not artifact.whole


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    write_text(file, ["before\n"])

    def lines() -> object:
        yield "after\n"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_text(file, lines())  # type: ignore[arg-type]
    assert file.read_text() == "before\n"


def test_blocks_are_cut_by_size_alone_and_finished_ones_are_kept(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def dying(prompts: Sequence[Prompt]) -> Block:
        seen.append([each.id for each in prompts])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return decode(prompts)

    with pytest.raises(KeyboardInterrupt):
        decode_share(tmp_path, PROMPTS, 3, dying)
    decode_share(tmp_path, PROMPTS, 3, dying)
    assert seen == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p3", "p4", "p5"], ["p6"]]
    assert merged(tmp_path) == plain(tmp_path / "plain")
    assert json.loads((tmp_path / "cost.json").read_text()) == {"large": 70.0}


def test_blocks_are_cut_as_whoever_began_cut_them(tmp_path: Path) -> None:
    """Where rows are worked out by the device, the next session may come to other ones; the plan is kept."""
    seen: list[int] = []

    def dying(prompts: Sequence[Prompt]) -> Block:
        seen.append(len(prompts))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return decode(prompts)

    with pytest.raises(KeyboardInterrupt):
        decode_share(tmp_path, PROMPTS, 3, dying)
    decode_share(tmp_path, PROMPTS, 5, dying)
    assert seen == [3, 3, 3, 1]
    assert merged(tmp_path) == plain(tmp_path / "plain")
    plan = {"prompts": 7, "prompts_a_block": 3, "blocks": 3, "devices": {"device 0": [0, 2], "device 1": [1]}}
    assert json.loads((tmp_path / "plan.json").read_text()) == plan


def test_a_block_of_another_plan_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    """Also where it has as many prompts: the last of three blocks of 3, and the third of seven of 1."""
    decode_share(tmp_path, PROMPTS, 3, decode)
    plan = Plan.of(len(PROMPTS), 3)
    assert all(finished(tmp_path, plan, number) for number in range(3))
    for size in (1, 2, 4, 7):
        other = Plan.of(len(PROMPTS), size)
        assert not any(finished(tmp_path, other, number) for number in range(other.blocks))


@pytest.mark.parametrize("left", [0, 1, 30, -1, -2, -20])
def test_a_block_cut_in_the_middle_of_a_line_is_decoded_again(tmp_path: Path, left: int) -> None:
    """As a power cut leaves it: at any length, also where a whole line or all but the last character is there."""
    decode_share(tmp_path, PROMPTS, 3, decode)
    cut = tmp_path / "00001.jsonl"
    cut.write_bytes(cut.read_bytes()[:left])
    seen: list[str] = []

    def noting(prompts: Sequence[Prompt]) -> Block:
        seen.append(prompts[0].id)
        return decode(prompts)

    decode_share(tmp_path, PROMPTS, 3, noting)
    assert seen == ["p3"]
    assert merged(tmp_path) == plain(tmp_path / "plain")


def never(prompts: Sequence[Prompt]) -> Block:
    raise AssertionError("decoded again")


def test_texts_may_hold_any_line_break(tmp_path: Path) -> None:
    """JSON keeps U+2028, U+0085 and others as they are, and Python counts them as ends of lines."""
    odd = [Prompt(f"p{number}", f"a{mark}b") for number, mark in enumerate("\u2028\u2029\x85\x0b\x1c\r\n")]

    decode_share(tmp_path, odd, 2, decode)
    decode_share(tmp_path, odd, 2, never)
    merge_blocks(tmp_path, tmp_path)
    assert [each.prompt for each in read_jsonl(tmp_path / "records.jsonl", Generation)] == [each.text for each in odd]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_union_of_shards_is_the_plain_run(tmp_path: Path, count: int) -> None:
    """Whatever their order, and where there are more shards than blocks."""
    for index in range(count, 0, -1):
        decode_share(tmp_path, PROMPTS, 3, decode, Shard(index, count))
    decode_share(tmp_path, PROMPTS, 3, never)
    assert merged(tmp_path) == plain(tmp_path / "plain")


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1.0/2", "a/b", "1/2/3"])
def test_a_shard_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write it as I/N"):
        Shard.parse(text)


def test_a_kill_at_any_operation_on_the_disk_loses_no_finished_block(tmp_path: Path) -> None:
    """A process is killed at its first, second, third ... fsync, rename and deletion; resumed, it ends the same."""
    lefts = set()
    for number in range(1, 200):
        folder = tmp_path / str(number)
        status = killed_at(folder, number)
        artifact = RunDirectory(folder).artifact("stage", {}, [])
        left = 0 if artifact.whole else 3 - len([*artifact.work.glob("0*.jsonl")])
        assert artifact_of(folder) == left, number
        assert artifact.whole and not artifact.work.exists() and not artifact.partial.exists()
        assert (artifact.folder / "records.jsonl").read_bytes() == plain(tmp_path / "plain")[0]
        lefts.add(left)
        if status == 0:
            break
    assert 15 < number < 199 and lefts == {0, 1, 2, 3}


def artifact_of(folder: Path) -> int:
    """Make an artifact of three blocks where it is not there; how many blocks that decoded."""
    run, decoded = RunDirectory(folder), []
    artifact = run.artifact("stage", {}, [])

    def counting(prompts: Sequence[Prompt]) -> Block:
        decoded.append(prompts)
        return decode(prompts)

    if artifact.whole:
        run.tidy(artifact)
        return 0
    with run.writing(artifact) as partial:
        decode_share(artifact.work, PROMPTS, 3, counting)
        merge_blocks(artifact.work, partial)
    return len(decoded)


def killed_at(folder: Path, number: int) -> int:
    """The same in a child that kills itself before the given operation; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = 0

    def counted(event: str, arguments: object) -> None:
        nonlocal count
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.fsync"):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sound = os.fsync
    os.fsync = lambda handle: (counted("os.fsync", ()), sound(handle))[1]  # python audits it not
    sys.addaudithook(counted)
    try:
        artifact_of(folder)
    finally:
        os._exit(0)


def plain(folder: Path) -> tuple[bytes, bytes]:
    """The records and costs of the blocks decoded at one go."""
    folder.mkdir(exist_ok=True)
    decode_share(folder, PROMPTS, 3, decode)
    return merged(folder)


def merged(folder: Path) -> tuple[bytes, bytes]:
    merge_blocks(folder, folder)
    return (folder / "records.jsonl").read_bytes(), (folder / "cost.json").read_bytes()


def test_an_artifact_says_what_it_was_made_from_and_how_long_it_took_in_all(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    artifact = run.artifact("stage", {"width": 4}, [])
    with pytest.raises(ZeroDivisionError), run.writing(artifact):
        raise ZeroDivisionError
    (artifact.work / "seconds.json").write_text("100")
    with run.writing(artifact):
        pass
    assert artifact.summary("made_from")["configuration"] == {"width": 4}
    assert "torch" in artifact.summary("made_from")["libraries"]
    assert 100 <= read_seconds(artifact) < 101


def test_what_ended_a_stage_is_not_hidden_by_a_disk_without_room_for_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(KeyboardInterrupt), run.writing(run.artifact("stage", {}, [])):
        monkeypatch.setattr("trimtab.store.files.os.fsync", full_disk)
        raise KeyboardInterrupt


def full_disk(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run cannot be created \(Not a directory\): give another --runs"):
        RunDirectory(tmp_path / "file" / "run")
