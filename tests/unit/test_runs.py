"""The run directory: artifacts are whole or absent, names follow content, blocks are kept."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from trimtab.errors import RunError
from trimtab.records import Generation, Prompt
from trimtab.runs import Block, RunDirectory, read_seconds, write_blocks, write_text

PROMPTS = [Prompt(f"p{number}", f"text {number}") for number in range(7)]


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
        raise ZeroDivisionError
    assert not artifact.whole
    with run.writing(artifact) as folder:
        assert (folder / "half.txt").exists()
    assert artifact.whole and not artifact.partial.exists()


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
        write_blocks(tmp_path, PROMPTS, 3, dying, lambda done, total: None)
    progress: list[tuple[int, int]] = []
    write_blocks(tmp_path, PROMPTS, 3, dying, lambda done, total: progress.append((done, total)))
    assert seen == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p3", "p4", "p5"], ["p6"]]
    assert progress == [(3, 7), (6, 7), (7, 7)]
    (tmp_path / "whole").mkdir()
    write_blocks(tmp_path / "whole", PROMPTS, 3, decode, lambda done, total: None)
    for name in ("records.jsonl", "cost.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((tmp_path / "cost.json").read_text()) == {"large": 70.0}
    assert not (tmp_path / "blocks").exists()


def test_a_kill_after_the_last_block_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finished blocks are deleted last: a kill while that happens must not leave a folder that cannot be read."""
    import shutil

    def killed(path: Path, ignore_errors: bool = False) -> None:
        (path / "00001.jsonl").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        write_blocks(tmp_path, PROMPTS, 3, decode, lambda done, total: None)

    def never(prompts: Sequence[Prompt]) -> Block:
        raise AssertionError("decoded again")

    write_blocks(tmp_path, PROMPTS, 3, never, lambda done, total: None)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 7
    assert not (tmp_path / "blocks").exists()


def test_an_artifact_says_what_it_was_made_from_and_how_long_it_took_in_all(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    artifact = run.artifact("stage", {"width": 4}, [])
    with pytest.raises(ZeroDivisionError), run.writing(artifact):
        raise ZeroDivisionError
    (artifact.partial / "seconds.json").write_text("100")
    with run.writing(artifact):
        pass
    assert artifact.summary("made_from")["configuration"] == {"width": 4}
    assert "torch" in artifact.summary("made_from")["libraries"]
    assert 100 <= read_seconds(artifact.folder) < 101


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made a run directory"):
        RunDirectory(tmp_path / "file" / "run")
