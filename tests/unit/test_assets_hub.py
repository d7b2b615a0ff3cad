"""A cached snapshot is used offline if it is whole; a hub that does not answer costs little, and is asked once."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from trimtab.assets.hub import from_hub, hub_answers, is_complete


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty hub cache, and a hub at an address where nothing listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_answers.cache_clear()
    yield tmp_path / "hub"
    hub_answers.cache_clear()


def snapshot(cache: Path, repository: str, files: dict[str, str]) -> Path:
    root = cache / repository
    folder = root / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_a_cached_snapshot_is_used_offline(cache: Path) -> None:
    folder = snapshot(cache, "models--someone--tiny", {"config.json": "{}", "model.safetensors": ""})
    assert from_hub("someone/tiny", "model", allow_pickle=False) == (folder, "")


def test_a_cached_data_set_is_used_offline(cache: Path) -> None:
    folder = snapshot(cache, "datasets--someone--tiny", {"train.csv": "text,label\n"})
    assert from_hub("someone/tiny", "dataset", allow_pickle=False) == (folder, "")
    assert from_hub("someone/tiny", "model", allow_pickle=False)[0] is None


def test_a_tokenizer_lies_in_the_repository_of_a_model(cache: Path) -> None:
    """The hub's client knows no repositories of tokenizers and refuses to be asked for one."""
    found = snapshot(cache, "models--someone--tiny", {"config.json": "{}", "tokenizer.json": "{}"})
    assert from_hub("someone/tiny", "tokenizer", allow_pickle=False) == (found, "")


def test_a_snapshot_without_weights_is_not_used(cache: Path) -> None:
    """transformers leaves such a one where only a tokenizer was asked for, or a download was interrupted."""
    snapshot(cache, "models--someone--tiny", {"config.json": "{}", "tokenizer.json": "{}"})
    found, reason = from_hub("someone/tiny", "model", allow_pickle=False)
    assert found is None and "cannot be reached" in reason


def test_pickled_weights_count_only_where_allowed(cache: Path) -> None:
    folder = snapshot(cache, "models--someone--tiny", {"config.json": "{}", "pytorch_model.bin": ""})
    assert from_hub("someone/tiny", "model", allow_pickle=False)[0] is None
    assert from_hub("someone/tiny", "model", allow_pickle=True)[0] == folder


def test_all_shards_of_an_index_must_be_there(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_text("")
    assert not is_complete(tmp_path, "model", pickles=False)
    (tmp_path / "model-2.safetensors").write_text("")
    assert is_complete(tmp_path, "model", pickles=False)


def test_a_name_that_no_repository_can_have(cache: Path) -> None:
    assert from_hub("a/b/c/d", "model", allow_pickle=False) == (None, "no name that it could know")


def test_offline_mode_asks_nobody(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("trimtab.assets.hub.hub_answers", lambda endpoint: pytest.fail("the hub was asked"))
    found, reason = from_hub("someone/tiny", "model", allow_pickle=False)
    assert found is None and "HF_HUB_OFFLINE" in reason


def test_a_silent_hub_costs_seconds_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that drops packets answers nothing: the connection stands, and no reply ever comes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert from_hub("someone/tiny", "model", allow_pickle=False)[0] is None
        assert time.monotonic() - started < 5
        started = time.monotonic()
        assert from_hub("someone/other", "model", allow_pickle=False)[0] is None
        assert time.monotonic() - started < 1


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_hub_without_the_name_gives_the_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert hub_answers(endpoint)
        found, reason = from_hub("someone/tiny", "model", allow_pickle=False)
        server.shutdown()
    assert found is None and reason and "\n" not in reason
