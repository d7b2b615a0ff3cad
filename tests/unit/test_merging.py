"""Shards made in run directories of their own are put together: all, once each, of one configuration, or not at all."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from carried import carry_out_steps
from trimtab.assets.resolve import Assets
from trimtab.errors import ConfigurationError, RunError, TrimtabError
from trimtab.pipeline.merge import difference, merge_shards
from trimtab.pipeline.step import Decoding, Plan, Step
from trimtab.pipeline.workspace import Job
from trimtab.records import Generation, Prompt, read_jsonl
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import Block, Within, ignored

PROMPTS = [Prompt(f"p{number}", f"text {number}") for number in range(7)]
WIDTH = {"decoder": {"width": 4}}


def decode(prompts: Sequence[Prompt], *, within: Within = ignored) -> Block:
    records = [Generation(each.id, each.text, 0, [1], [2], f" {each.id}", "length") for each in prompts]
    return Block(records, {"large": 10.0 * len(prompts)}, 0.5)


def dying(prompts: Sequence[Prompt], *, within: Within = ignored) -> Block:
    if prompts[0].id == "p6":
        raise KeyboardInterrupt
    return decode(prompts)


def run(
    folder: Path, *shards: str, parts: dict[str, object] = WIDTH, model: str = "weights", by=decode, size: int = 3
) -> Path:
    """Make what a guide is tuned from, and decode with each of the shards; without any, the plain run."""

    def tune(job: Job) -> None:
        (job.folder / "model").mkdir()
        (job.folder / "model" / "model.bin").write_text(model)

    tuned = Step("tune", tune)
    guide = Step(
        "guide", lambda job, **_: Decoding(PROMPTS, by, size), "guide cbs", parts=parts, needs=(tuned,), decodes=True
    )
    assets = Assets(cache=folder / "cache")
    for shard in shards or [None]:
        plan = Plan([guide], RunDirectory(folder), assets)
        carry_out_steps(plan, assets, [tuned])
        carry_out_steps(plan, assets, [guide], shard=shard)
    return folder


def artifact_bytes(folder: Path) -> dict[str, bytes]:
    return {
        f"{made.name}/{file.name}": file.read_bytes()
        for made in folder.glob("*-????????????")
        for file in made.rglob("*")
        if file.is_file() and file.name not in ("seconds.json", "files.json")
    }


def prompt_ids(folder: Path) -> list[str]:
    (made,) = folder.glob("guide-????????????")
    return [record.prompt_id for record in read_jsonl(made / "records.jsonl", Generation)]


def test_who_comes_after_shards_takes_their_blocks_as_they_cut_them(tmp_path: Path) -> None:
    """Also where its own settings would cut the prompts in another way: none is lost, and none is decoded again."""
    decoded: list[int] = []

    def counting(prompts: Sequence[Prompt], *, within: Within = ignored) -> Block:
        decoded.append(len(prompts))
        return decode(prompts)

    run(tmp_path, "1/2", size=2, by=counting)
    run(tmp_path, "2/2", size=3, by=counting)  # it was asked for other rows
    assert decoded == [2, 2, 2, 1]
    run(tmp_path, size=5, by=counting)
    assert len(decoded) == 4 and prompt_ids(tmp_path) == [prompt.id for prompt in PROMPTS]


def test_memory_that_runs_out_is_helped_by_fewer_rows_in_the_next_session(tmp_path: Path) -> None:
    """The blocks stay as they were cut, and are decoded in parts."""
    fits, decoded = 2, list[int]()

    def short_of_memory(prompts: Sequence[Prompt], *, within: Within = ignored) -> Block:
        decoded.append(len(prompts))
        if len(prompts) > fits:
            raise MemoryError
        within(0.5)
        return decode(prompts)

    for size in (5, 3):
        with pytest.raises(RunError, match="there is not enough memory"):
            run(tmp_path, by=short_of_memory, size=size)
    run(tmp_path, by=short_of_memory, size=2)
    assert decoded == [5, 3, 2, 2, 1, 2] and prompt_ids(tmp_path) == [prompt.id for prompt in PROMPTS]
    (made,) = tmp_path.glob("guide-????????????")
    assert json.loads((made / "cost.json").read_text()) == {"large": 70.0}


def test_shards_that_began_together_with_unlike_rows_are_refused(tmp_path: Path) -> None:
    """In one run directory, where neither saw the other's plan, and in two."""
    one, two = run(tmp_path / "one", "1/2", size=2), run(tmp_path / "two", "2/2", size=3)
    with pytest.raises(RunError, match=r"blocks of 2 of 7 prompts in .*one and of 3 of 7 in .*two: decode it anew in"):
        merge_shards([one, two], tmp_path / "all")
    (work,), (other,) = one.glob("guide-*.work"), two.glob("guide-*.work")
    shutil.copytree(other, work, dirs_exist_ok=True)
    with pytest.raises(RunError, match=r"cut their prompts into blocks of unlike sizes \(2 in shard-1-of-2.json, 3 in"):
        run(one)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_union_of_shards_from_many_directories_is_the_plain_run(tmp_path: Path, count: int) -> None:
    """Also where there are more shards than blocks, and some are empty."""
    plain = artifact_bytes(run(tmp_path / "plain"))
    directories = [run(tmp_path / f"{index}", f"{index}/{count}") for index in range(1, count + 1)]
    lines = merge_shards(directories[::-1], tmp_path / "all")
    assert len(lines) == 1 and lines[0].startswith(f"guide cbs: {count} shards, 3 blocks, in {tmp_path}/all/guide-")
    assert artifact_bytes(tmp_path / "all") == plain
    assert not [*(tmp_path / "all").glob("*.work")] and not [*(tmp_path / "all").glob("*.partial")]
    assert merge_shards(directories, tmp_path / "all") == lines  # once more changes nothing
    assert artifact_bytes(tmp_path / "all") == plain


def test_one_directory_is_put_together_in_itself(tmp_path: Path) -> None:
    merge_shards([run(tmp_path / "a", "2/2", "1/2")])
    assert artifact_bytes(tmp_path / "a") == artifact_bytes(run(tmp_path / "plain"))
    with pytest.raises(RunError, match="no shards here"):
        merge_shards([tmp_path / "a"])


def test_into_one_of_the_directories(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", "1/2"), run(tmp_path / "b", "2/2")
    merge_shards([a, b], a)
    assert artifact_bytes(a) == artifact_bytes(run(tmp_path / "plain"))


def test_a_shard_that_is_missing_twice_or_not_done_is_named_with_all_others(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", "1/4"), run(tmp_path / "b", "1/4")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", "3/4", by=dying)
    with pytest.raises(RunError) as caught:
        merge_shards([a, b, tmp_path / "c"], tmp_path / "all")
    faults = str(caught.value).split("; ")
    assert f"shard 1/4 of guide cbs is in {a} and in {b}: leave one of them out" in faults
    assert "shard 2/4 of guide cbs is missing: decode it, or give its run directory too" in faults
    assert any(each.startswith("shard 3/4 of guide cbs in ") and "lacks 1 of 1 blocks" in each for each in faults)
    assert len(faults) == 4 and not (tmp_path / "all").exists()


def test_shards_of_unlike_configurations_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", "1/2"), run(tmp_path / "b", "2/2", parts={"decoder": {"width": 2}})
    with pytest.raises(RunError, match=r"not of one configuration in .*: configuration\.decoder\.width is 4 and 2"):
        merge_shards([a, b], tmp_path / "all")


def test_shards_that_are_cut_in_two_ways_are_refused(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", "1/2"), run(tmp_path / "b", "2/3")
    with pytest.raises(RunError, match=r"cut into 2 shards in .*a and into 3 in .*b"):
        merge_shards([a, b], tmp_path / "all")


def test_guides_that_were_tuned_apart_are_two_guides(tmp_path: Path) -> None:
    """Their folders have one name, which follows from what they are made from and not from what came of it."""
    a, b = run(tmp_path / "a", "1/2"), run(tmp_path / "b", "2/2", model="others")
    with pytest.raises(RunError, match=r"differ in model/model\.bin: make it once, and copy the run directory"):
        merge_shards([a, b], tmp_path / "all")


def test_a_merge_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = [run(tmp_path / f"{index}", f"{index}/2") for index in (1, 2)]
    copied = shutil.copyfile

    def dying_copy(source: Path, target: Path, **options: bool) -> None:
        if Path(target).name == "00001.jsonl":
            Path(target).write_text("half")
            raise KeyboardInterrupt
        copied(source, target, **options)

    monkeypatch.setattr(shutil, "copyfile", dying_copy)
    with pytest.raises(KeyboardInterrupt):
        merge_shards(directories, tmp_path / "all")
    monkeypatch.undo()
    merge_shards(directories, tmp_path / "all")
    assert artifact_bytes(tmp_path / "all") == artifact_bytes(run(tmp_path / "plain"))


def test_traces_are_joined(tmp_path: Path) -> None:
    directories = [run(tmp_path / f"{index}", f"{index}/2") for index in (1, 2)]
    for directory in directories:
        (directory / "traces").mkdir()
        (directory / "traces" / "cbs.jsonl").write_text(f"{directory.name}\n")
    merge_shards(directories, tmp_path / "all")
    assert (tmp_path / "all/traces/cbs.jsonl").read_text() == "1\n2\n"


@pytest.mark.parametrize(
    ("directories", "into", "line"),
    [
        ([], None, "give the run directories"),
        (["a", "b"], None, "and --into DIR where they are several"),
        (["nowhere"], "all", "nowhere: no run directory"),
        (["empty"], "all", "empty: no shards here"),
    ],
)
def test_what_cannot_be_put_together_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directories: list[str], into: str | None, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(TrimtabError, match=line) as caught:
        merge_shards([Path(each) for each in directories], into and Path(into))
    assert isinstance(caught.value, ConfigurationError | RunError)


def test_a_note_that_was_cut_is_named(tmp_path: Path) -> None:
    place = run(tmp_path / "a", "1/1")
    (note,) = place.glob("*.work/shard-1-of-1.json")
    note.write_text(note.read_text()[:30])
    with pytest.raises(RunError, match=r"shard-1-of-1\.json cannot be read: decode this shard again"):
        merge_shards([place])


def test_a_difference_is_told_by_its_path() -> None:
    assert difference({"a": {"b": [1]}, "c": 1}, {"a": {"b": [2]}, "c": 2}) == "a.b is [1] and [2]"
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "b is null and 2"


def test_an_artifact_that_was_merged_says_what_it_was_made_from(tmp_path: Path) -> None:
    merge_shards([run(tmp_path / "a", "1/1")])
    (folder,) = (tmp_path / "a").glob("guide-????????????")
    assert json.loads((folder / "made_from.json").read_text())["configuration"]["decoder"] == {"width": 4}
    assert Artifact("guide", folder.name[-12:], folder, {}).whole
