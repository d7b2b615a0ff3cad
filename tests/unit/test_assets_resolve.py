"""A name resolves through the path map, a local folder, the hub's cache and the catalogue, in this order."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from trimtab.assets.catalog import CATALOG
from trimtab.assets.resolve import Assets, read_path_map
from trimtab.errors import AssetError


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("TRIMTAB_PATH_MAP", raising=False)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))


def folder_with(place: Path, *names: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / name).write_text(name)
    return place


def path_map(tmp_path: Path, text: str) -> Path:
    (tmp_path / "paths.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "paths.yaml"


@pytest.mark.parametrize("text", ["", "\n", "# gpt2: /models/gpt2\n", "# one\n# two", "---\n# nothing\n"])
def test_an_empty_or_comment_only_path_map_is_fine(tmp_path: Path, text: str) -> None:
    """The write-up's own program crashes on the map that it ships, which holds only comments."""
    assert read_path_map(path_map(tmp_path, text)) == {}


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = folder_with(tmp_path / "models" / "large", "model.safetensors")
    assets = Assets(path_map=path_map(tmp_path, "someone/large: ~/models/large\n"))
    assert assets.model("someone/large") == model
    assert assets.model("~/models/large") == model


def test_relative_folders_are_relative_to_the_map(tmp_path: Path) -> None:
    model = folder_with(tmp_path / "large", "model.safetensors")
    assert Assets(path_map=path_map(tmp_path, "large: ./large")).model("large") == model


@pytest.mark.parametrize("text", ["- one\n- two", "just words", "name: 7", "name: [a, b]", "7: folder", "a: {b", "a:"])
def test_a_wrong_path_map_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(AssetError, match=r"paths\.yaml") as caught:
        Assets(path_map=path_map(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_path_map_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tmp_path / "absent.yaml"))
    with pytest.raises(AssetError, match="TRIMTAB_PATH_MAP"):
        Assets()


def test_a_mapped_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"nowhere for gpt2.*mend the path map"):
        Assets(path_map=path_map(tmp_path, "gpt2: nowhere")).model("gpt2")


def test_the_cache_may_hold_the_path_map(tmp_path: Path) -> None:
    model = folder_with(tmp_path / "large", "model.safetensors")
    folder_with(tmp_path / "cache")
    (tmp_path / "cache" / "paths.yaml").write_text(f"large: {model}\n")
    assert Assets().model("large") == model


def test_the_path_map_comes_before_hub_and_catalogue(tmp_path: Path) -> None:
    mine = folder_with(tmp_path / "mine", "model.safetensors")
    cached = folder_with(tmp_path / "hub/models--google--gemma-3-270m/snapshots" / ("a" * 40), "model.safetensors")
    folder_with(tmp_path / "hub/models--google--gemma-3-270m/refs")
    (tmp_path / "hub/models--google--gemma-3-270m/refs/main").write_text("a" * 40)
    assert Assets(path_map=path_map(tmp_path, f"google/gemma-3-270m: {mine}")).model("google/gemma-3-270m") == mine
    assert Assets().model("google/gemma-3-270m") == cached


def test_a_folder_laid_out_as_the_hubs_cache(tmp_path: Path) -> None:
    root = tmp_path / "models--someone--tiny"
    files = folder_with(root / "snapshots" / "abc", "model.safetensors")
    folder_with(root / "refs")
    (root / "refs" / "main").write_text("abc\n")
    assert Assets().model(str(root)) == files


def test_pickled_weights_need_the_option(tmp_path: Path) -> None:
    model = folder_with(tmp_path / "old", "config.json", "pytorch_model.bin")
    with pytest.raises(AssetError, match="allow_pickle"):
        Assets().model(str(model))
    assert Assets().model(str(model), allow_pickle=True) == model
    folder_with(model, "model.safetensors")
    assert Assets().model(str(model)) == model


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no weights"):
        Assets().model(str(folder_with(tmp_path / "empty", "config.json")))
    with pytest.raises(AssetError, match="not a folder"):
        Assets().model(str(folder_with(tmp_path / "empty") / "config.json"))


def test_an_unknown_name_lists_what_is_known() -> None:
    with pytest.raises(AssetError, match="google/gemma-3-270m") as caught:
        Assets().model("nobody/nothing")
    assert "path map" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(AssetError, match="imdb"):
        Assets().dataset("nobody/nothing")


def test_a_model_is_no_data_set() -> None:
    with pytest.raises(AssetError, match="dataset 'google/gemma-3-270m'"):
        Assets().dataset("google/gemma-3-270m")


def test_gguf_is_converted_once_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        converted.append(source)
        (target / "model.safetensors").write_text(source.read_text())

    monkeypatch.setattr("trimtab.assets.convert.convert_gguf", convert)
    one = folder_with(tmp_path / "one", "a.gguf")
    folder = Assets().model(str(one))
    assert (folder / "model.safetensors").read_text() == "a.gguf" and folder.is_relative_to(tmp_path / "cache")
    assert Assets().model(str(one)) == Assets().model(str(one / "a.gguf")) == folder
    assert len(converted) == 1 and folder.name.startswith("a-"), "messages show the folder, and so the name"
    (one / "a.gguf").write_text("other weights")
    assert Assets().model(str(one)) != folder
    folder_with(one, "b.gguf")
    with pytest.raises(AssetError, match="2 GGUF files"):
        Assets().model(str(one))


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_text("half")
        raise AssetError("no")

    monkeypatch.setattr("trimtab.assets.convert.convert_gguf", convert)
    with pytest.raises(AssetError, match="no"):
        Assets().model(str(folder_with(tmp_path / "one", "a.gguf")))
    assert not [path for path in (tmp_path / "cache" / "converted").iterdir() if path.suffix != ".lock"]


def test_the_catalogues_gguf_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading 250 MB on every start would cost a second; the download was checked."""
    assets = Assets()
    entry = CATALOG["HuggingFaceTB/SmolLM2-135M-Instruct"]
    downloaded = f"HuggingFaceTB--SmolLM2-135M-Instruct-{entry.digest}"
    folder_with(assets.cache / "downloads" / downloaded, entry.files[0].name)
    made = f"HuggingFaceTB--SmolLM2-135M-Instruct-{entry.files[0].sha256[:16]}"
    folder = folder_with(assets.cache / "converted" / made, "model.safetensors")
    monkeypatch.setattr("trimtab.assets.resolve.sha256_of", lambda path: pytest.fail("hashed"))
    assert assets.model(entry.name) == folder
    assert assets.present(entry) == folder


def test_an_adapter_is_checked(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "adapter", "adapter_config.json")
    with pytest.raises(AssetError, match=r"adapter_model\.safetensors"):
        Assets().adapter(str(folder))
    folder_with(folder, "adapter_model.safetensors")
    assert Assets().adapter(str(folder)) == folder


def test_looking_for_what_is_there_downloads_nothing(tmp_path: Path) -> None:
    assets = Assets(path_map=path_map(tmp_path, f"imdb: {tmp_path}"))
    places = {name: assets.present(entry) for name, entry in CATALOG.items()}
    assert places == {**dict.fromkeys(CATALOG), "imdb": tmp_path}
    assert not (tmp_path / "cache").exists()
