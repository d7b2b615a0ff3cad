"""What a model's files hold has one hash on every machine, and it changes with any byte that is read."""

import os
import shutil
from pathlib import Path

import pytest

from trimtab.assets import digests
from trimtab.assets.digests import content_digest
from trimtab.assets.resolve import Assets
from trimtab.errors import AssetError

FILES = {"config.json": "{}", "model.safetensors": "weights", "sub/tokenizer.json": "tokens"}


def model(folder: Path, **changed: str) -> Path:
    for name, text in {**FILES, **changed}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_two_copies_are_one_model_whenever_and_wherever_they_were_written(tmp_path: Path) -> None:
    """Shards on machines with downloads of their own must come to the same artifacts."""
    here, there = model(tmp_path / "here"), model(tmp_path / "there" / "deep")
    os.utime(there / "config.json", (1, 1))
    (there / "README.md").write_text("read by nobody")
    assert content_digest(here, tmp_path / "a") == content_digest(there, tmp_path / "b")


@pytest.mark.parametrize("name", FILES)
def test_any_file_that_changes_or_moves_makes_another_model(tmp_path: Path, name: str) -> None:
    whole = content_digest(model(tmp_path / "a"), tmp_path / "memory")
    assert content_digest(model(tmp_path / "b", **{name: "else"}), tmp_path / "memory") != whole
    moved = model(tmp_path / "c")
    (moved / name).rename(moved / ("x" + Path(name).suffix))
    assert content_digest(moved, tmp_path / "memory") != whole


def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = model(tmp_path / "model"), []
    sha256_of = digests.sha256_of
    monkeypatch.setattr(digests, "sha256_of", lambda path: (read.append(path.name), sha256_of(path))[1])
    first = content_digest(folder, tmp_path / "memory")
    assert sorted(read) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert content_digest(folder, tmp_path / "memory") == first and len(read) == 3
    (folder / "config.json").write_text("[]")
    assert content_digest(folder, tmp_path / "memory") != first
    assert read[3:] == ["config.json"]


def test_a_note_that_was_cut_is_no_note(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    whole = content_digest(folder, tmp_path / "memory")
    (note,) = (tmp_path / "memory").iterdir()
    note.write_text(note.read_text()[:20])
    assert content_digest(folder, tmp_path / "memory") == whole


def test_the_hubs_cache_names_large_files_by_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob's name is its sha256, so that 140 GB are not read; and the model is the same one as in a plain folder."""
    plain, snapshot, blobs = model(tmp_path / "plain"), tmp_path / "hub/snapshots/1", tmp_path / "hub/blobs"
    expected = content_digest(plain, tmp_path / "memory")
    shutil.copytree(plain, snapshot)
    blobs.mkdir()
    blob = blobs / digests.sha256_of(plain / "model.safetensors")
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    sha256_of = digests.sha256_of
    monkeypatch.setattr(digests, "sha256_of", lambda path: sha256_of(path) if path.suffix == ".json" else 1 / 0)
    assert content_digest(snapshot, tmp_path / "memory") == expected


def test_pickles_count_where_there_is_nothing_else(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    whole = content_digest(folder, tmp_path / "memory")
    (folder / "pytorch_model.bin").write_text("pickled")
    assert content_digest(folder, tmp_path / "memory") == whole
    (folder / "model.safetensors").unlink()
    pickled = content_digest(folder, tmp_path / "memory")
    (folder / "pytorch_model.bin").write_text("others!")
    assert content_digest(folder, tmp_path / "memory") != pickled


def test_a_file_is_itself_under_any_name_and_one_that_is_gone_is_a_line(tmp_path: Path) -> None:
    assets = Assets(cache=tmp_path / "cache")
    (tmp_path / "one.csv").write_text("a,b\n")
    (tmp_path / "two.csv").write_text("a,b\n")
    assert assets.identity(tmp_path / "one.csv") == assets.identity(tmp_path / "two.csv")
    with pytest.raises(AssetError, match=r"three\.csv cannot be read: No such file"):
        assets.identity(tmp_path / "three.csv")
