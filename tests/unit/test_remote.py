"""Run directories at URLs: whole artifacts travel, one process writes, and what fails is one line and loses nothing."""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from trimtab.errors import ConfigurationError, RunError, TakenOverError
from trimtab.store import lock, url_folder
from trimtab.store.artifacts import Artifact, RunDirectory
from trimtab.store.blocks import Shard
from trimtab.store.files import SEAL, is_sealed, link_to, write_text
from trimtab.store.lock import Holder, run_lock
from trimtab.store.remote import address_of, local_run, mirror_of, runs_folder
from unstable_files import UnstableFiles

URL = "unstable://bucket/runs"
FILES = UnstableFiles()


@pytest.fixture(autouse=True)
def first_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    UnstableFiles.forget()
    monkeypatch.setattr(url_folder, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "first"))
    yield
    assert not UnstableFiles.failures


def on_machine(monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """From now on this is another machine, with a cache of its own; gives its folder of the run."""
    folder = Path(os.environ["TRIMTAB_CACHE"]).with_name(name)
    monkeypatch.setenv("TRIMTAB_CACHE", str(folder))
    return runs_folder(URL) / "demo"


def here() -> Path:
    return runs_folder(URL) / "demo"


def made(text: str = "words", stage: str = "data") -> Artifact:
    """The artifact, which is made where it is missing."""
    run = RunDirectory(here())
    artifact = run.artifact(stage, {}, [])
    if not artifact.whole:
        with run.writing(artifact) as folder:
            (folder / "model").mkdir()
            write_text(folder / "model" / "weights.txt", [text])
            write_text(folder / "records.jsonl", [text, "\n"])
    return artifact


def text_of(artifact: Artifact) -> str:
    return (artifact.folder / "model" / "weights.txt").read_text(encoding="utf-8")


def remote_files() -> dict[str, bytes]:
    return {path.removeprefix("/bucket/runs/demo/"): FILES.cat_file(path) for path in FILES.store}


def test_paths_are_no_urls(tmp_path: Path) -> None:
    assert runs_folder("runs") == Path("runs") and runs_folder(tmp_path) == tmp_path
    assert local_run(tmp_path / "demo", "guide") == tmp_path / "demo"
    assert mirror_of(tmp_path / "demo") is None and address_of(Path("runs/demo")) == "runs/demo"


def test_an_artifact_is_uploaded_seal_last_and_is_the_same_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log goes before the seal: it has the steps of all that is whole at the URL."""
    here().mkdir(parents=True)
    (here() / "log.txt").write_text("data: runs\n")
    artifact = made()
    uploaded = [path.rpartition("demo/")[2] for path in UnstableFiles.uploaded]
    assert uploaded[-2:] == ["log.txt", f"{artifact.folder.name}/{SEAL}"] and len(uploaded) == 6
    on_machine(monkeypatch, "second")
    again = made("never made")
    assert text_of(again) == "words" and again.folder != artifact.folder and len(UnstableFiles.uploaded) == 6
    left = {path.name for path in again.folder.parent.iterdir()} - {".mirror.lock"}
    assert left == {again.folder.name}


@pytest.mark.parametrize("uploads", range(4))
def test_half_an_artifact_is_none(uploads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that ends anywhere before the seal leaves nothing that another machine takes for whole."""
    artifact = made()
    for path in UnstableFiles.uploaded[uploads:]:
        FILES.rm_file(path)
    on_machine(monkeypatch, "second")
    assert text_of(made("made again")) == "made again"
    on_machine(monkeypatch, "third")
    assert text_of(made()) == "made again"
    assert artifact.digest == made().digest


@pytest.mark.parametrize("fault", ["a file is gone", "a file is cut", "the seal is cut", "the seal names another file"])
def test_a_damaged_artifact_is_made_again_and_replaced(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = f"/bucket/runs/demo/{made().folder.name}"
    seal = json.loads(FILES.cat_file(f"{root}/{SEAL}"))
    if fault == "a file is gone":
        FILES.rm_file(f"{root}/records.jsonl")
    elif fault == "a file is cut":
        FILES.pipe_file(f"{root}/records.jsonl", b"wor")
    else:
        text = json.dumps({**seal, "more": 1})
        FILES.pipe_file(f"{root}/{SEAL}", text.encode() if "names" in fault else text.encode()[:9])
    on_machine(monkeypatch, "second")
    assert text_of(made("made again")) == "made again"
    assert "is damaged at unstable://bucket/runs/demo: making it again" in caplog.text
    on_machine(monkeypatch, "third")
    assert text_of(made()) == "made again"


def test_what_is_damaged_here_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = made()
    (artifact.folder / "records.jsonl").write_text("w")
    assert text_of(made("never made")) == "words" and (artifact.folder / "records.jsonl").read_text() == "words\n"


def test_a_failing_request_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    made(stage="first")
    UnstableFiles.failures += [ConnectionError("reset"), TimeoutError("slow"), RuntimeError("of the library")]
    with run_lock(here()):
        UnstableFiles.failures += [ConnectionError("reset"), ConnectionError("reset")]
        made(stage="second")
    on_machine(monkeypatch, "second")
    assert text_of(made("never made", "second")) == "words"


def test_an_upload_that_fails_for_good_loses_nothing_and_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; the artifact is whole here, and is uploaded by the same command, which is not locked out."""
    with pytest.raises(RunError) as ended, run_lock(here()):
        UnstableFiles.failures += [ConnectionError("the network is gone")] * 100
        made()
    UnstableFiles.failures.clear()
    assert str(ended.value).startswith("unstable://bucket/runs/demo cannot be read or written (ConnectionError: the")
    assert f"data-{made().digest}/{SEAL}" in remote_files()
    with run_lock(here()) as died:
        assert died is None or died.pid == os.getpid()
        assert text_of(made("never made")) == "words"
    on_machine(monkeypatch, "second")
    assert text_of(made("never made")) == "words"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), NotImplementedError("read only")])
def test_what_no_second_try_mends_is_said_at_once(error: Exception) -> None:
    made(stage="first")
    UnstableFiles.failures.append(error)
    with pytest.raises(RunError, match=rf"cannot be read or written \({type(error).__name__}: .*check address, rights"):
        made()


def test_the_rest_is_published_and_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report, logs and links; what is hidden, unfinished or in an artifact is not."""
    with run_lock(here()):
        folder = here()
        artifact = made()
        for name in ("report/report.html", "traces/cbs.jsonl", "log.txt", "report.partial/half", "data-1.work/block"):
            (folder / name).parent.mkdir(exist_ok=True)
            write_text(folder / name, [f"{name} of the first\n"])
        link_to(folder / "tuned", Path(artifact.folder.name) / "model")
        (folder / "decoders" / "base").mkdir(parents=True)
        link_to(folder / "decoders" / "base" / "scores", Path("..", "..", artifact.folder.name))
        link_to(folder / "elsewhere", folder.parent)
    rest = {name for name in remote_files() if not name.startswith("data-")}
    assert rest == {"report/report.html", "traces/cbs.jsonl", "log.txt", "links.json"}
    folder = on_machine(monkeypatch, "second")
    with run_lock(folder):
        (folder / "report").rename(folder / "report-0123456789ab")  # which is no artifact
        made("never made")
        assert (folder / "tuned" / "weights.txt").read_text() == "words"
        assert (folder / "decoders" / "base" / "scores" / "records.jsonl").is_file()
        with (folder / "log.txt").open("a") as log:
            log.write("and of the second\n")
    assert remote_files()["log.txt"] == b"log.txt of the first\nand of the second\n"
    assert "report-0123456789ab/report.html" in remote_files() and "report/report.html" not in remote_files()


def test_a_reader_s_copy_keeps_a_longer_log_and_the_newer_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here()
    with run_lock(folder):
        write_text(folder / "log.txt", ["short"])
        write_text(folder / "status.json", ["new"])
    write_text(folder / "log.txt", ["longer, of a run that was killed"])
    write_text(folder / "status.json", ["the status of that run"])
    assert local_run(f"{URL}/demo/") == folder
    assert (folder / "log.txt").read_text().startswith("longer") and (folder / "status.json").read_text() == "new"


def test_a_reader_gets_the_artifacts_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made(stage="tune")
    made(stage="guide")
    folder = on_machine(monkeypatch, "second")
    local_run(f"{URL}/demo", "guide", "data")
    assert [path.name.partition("-")[0] for path in folder.glob("[a-z]*")] == ["guide"]
    run = RunDirectory(folder, create=False)
    assert run.artifact("tune", {}, []).whole and not run.artifact("reward", {}, []).whole
    assert not (folder / run.artifact("tune", {}, []).folder).exists()


def test_while_a_run_works_here_its_files_are_the_newer_ones() -> None:
    folder = here()
    with run_lock(folder):
        write_text(folder / "status.json", ["old"])
    with run_lock(folder):
        write_text(folder / "status.json", ["new"])
        assert (local_run(f"{URL}/demo") / "status.json").read_text() == "new"


@pytest.mark.parametrize("name", ["../outside.txt", "report/../../../outside.txt"])
def test_files_and_links_that_lead_outside_are_refused(name: str) -> None:
    for place, text in ((f"/bucket/runs/demo/{name}", b"x"), ("/bucket/runs/demo/links.json", b"")):
        FILES.forget()
        FILES.store.clear()
        FILES.pipe_file(place, text or json.dumps({"tuned": f"../{name}"}).encode())
        with pytest.raises(RunError, match=r"names the file '.*', outside of the run directory: delete it"):
            local_run(f"{URL}/demo")


HERE = Holder.this()
"""This process, as the writer of a note."""


def note(holder: Holder, seconds_ago: float = 0.0) -> None:
    """Leave the note of a writer at the URL."""
    values = {**asdict(holder), "seen": time.time() - seconds_ago}
    FILES.pipe_file("/bucket/runs/demo/.lock.json", json.dumps(values).encode())


def note_there() -> dict[str, object] | None:
    file = "/bucket/runs/demo/.lock.json"
    return json.loads(FILES.cat_file(file)) if FILES.exists(file) else None


def test_one_process_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_lock(here()):
        assert note_there()["pid"] == os.getpid()
        on_machine(monkeypatch, "second")
        with pytest.raises(RunError) as refused, run_lock(here()):
            pass
        with (
            pytest.raises(ConfigurationError, match="takes whole artifacts and no shards"),
            run_lock(here(), Shard(1, 2)),
        ):
            pass
        assert note_there() is not None
    assert note_there() is None
    message = str(refused.value)
    assert message.startswith(f"unstable://bucket/runs/demo is in use by process {os.getpid()} on ")
    assert message.endswith("10 minutes after its end, or delete unstable://bucket/runs/demo/.lock.json")


def test_who_died_is_followed() -> None:
    """At once where it held this folder's lock; else once its note is not renewed any more, or was deleted."""
    with run_lock(here()):
        killed = note_there()
    FILES.pipe_file("/bucket/runs/demo/.lock.json", json.dumps({**killed, "seen": 5.0}).encode())
    with run_lock(here()) as died:
        assert died == Holder(**{**killed, "seen": 5.0})
    other = replace(HERE, host="elsewhere", pid=7)
    note(other, seconds_ago=lock.DEAD_SECONDS - 60)
    with pytest.raises(RunError, match="in use by process 7 on elsewhere"), run_lock(here()):
        pass
    note(other, seconds_ago=lock.DEAD_SECONDS + 1)
    with run_lock(here()) as died:
        assert died.pid == 7 and died.alive is False
    FILES.pipe_file("/bucket/runs/demo/.lock.json", b'{"of": "another version"}')
    with pytest.raises(RunError, match="in use by another process"), run_lock(here()):
        pass


def test_of_two_that_start_together_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system can create a file for one of them only, as memory and object stores can."""
    read = url_folder.UrlFolder.read_json
    monkeypatch.setattr(url_folder.UrlFolder, "read_json", lambda folder, name: None)
    note(replace(HERE, host="elsewhere", pid=7))
    with pytest.raises(RunError, match="in use by another process"), run_lock(here()):
        pass
    monkeypatch.setattr(url_folder.UrlFolder, "read_json", read)
    assert note_there()["pid"] == 7


def test_who_was_taken_over_uploads_nothing_more() -> None:
    """And leaves the other's note alone; what it has finished stays on its machine."""
    with pytest.raises(TakenOverError, match="over by process 7 on elsewhere: this run ends"), run_lock(here()):
        write_text(here() / "log.txt", ["of the one that was taken over"])
        note(replace(HERE, host="elsewhere", pid=7))
        made()
    assert set(remote_files()) == {".lock.json"} and note_there()["pid"] == 7
    (kept,) = here().glob("data-*")
    assert is_sealed(kept)


def test_the_note_is_renewed_while_its_writer_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.005)
    with run_lock(here()):
        first = note_there()["seen"]
        while note_there()["seen"] == first:
            time.sleep(0.005)
        note(replace(HERE, host="elsewhere", pid=7))
        time.sleep(0.05)
        assert note_there()["pid"] == 7, "another's note is not overwritten"
        FILES.rm_file("/bucket/runs/demo/.lock.json")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("s4://bucket/runs", "s4://bucket/runs has an unknown protocol: did you mean s3?"),
        ("s3://", "s3:// names no folder: give one, such as s3://bucket/runs"),
        ("file:///", "file:/// names no folder"),
        ("absent://bucket/runs", r"absent://bucket/runs cannot be used \(ImportError: Install absentfs"),
        ("github://runs", r"github://runs cannot be used \("),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"class": "absent.Files", "err": "Install absentfs to access absent"}
    monkeypatch.setitem(known_implementations, "absent", absent)
    with pytest.raises(ConfigurationError, match=line):
        runs_folder(url)


@pytest.mark.parametrize("url", ["s3://", "s3://bucket", "memory:///"])
def test_a_run_has_a_folder_above_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no folder"):
        local_run(url)


def test_a_relative_file_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = runs_folder("file://runs")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert address_of(folder / "demo") == f"file://{tmp_path}/runs/demo" and runs_folder("file://runs") != folder
    assert runs_folder(f"file://{tmp_path}/runs/") == folder


def test_a_file_in_a_folder_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an empty log: a kill in the middle of an upload left a file without its end, where others read it."""
    folder = runs_folder(f"file://{tmp_path}/runs") / "demo"
    with run_lock(folder):
        write_text(folder / "log.txt", ["first\n"])
    log = tmp_path / "runs" / "demo" / "log.txt"

    def killed(files: object, source: str, target: str, **_: object) -> None:
        Path(target).write_text("fi")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), run_lock(folder):
        write_text(folder / "log.txt", ["first\n", "second\n"])
        patched.setattr(LocalFileSystem, "put_file", killed)
    assert log.read_text() == "first\n"
    with run_lock(folder):
        assert (folder / "log.txt").read_text() == "first\nsecond\n"
    assert log.read_text() == "first\nsecond\n" and not (folder / "log.txt.tmp").exists()


def test_no_bucket_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs makes the bucket of a path where it is told to make folders, and a misspelt one would hold the run."""
    folder = url_folder.UrlFolder("unstable://bukcet/runs")
    monkeypatch.setattr(folder, "_root", "bukcet/runs")  # as s3fs and gcsfs write it
    monkeypatch.setattr(UnstableFiles, "makedirs", lambda *_, **__: pytest.fail("a bucket was made"))
    folder.write_json("note.json", {}, create=True)
    folder.write_json("note.json", {"a": 1})
    assert folder.read_json("note.json") == {"a": 1}


class Pages(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: object) -> None:
        pass


def test_a_web_server_that_lists_its_folders_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs_folder(f"file://{tmp_path}/pages/runs") / "demo"
    run = RunDirectory(folder)
    artifact = run.artifact("guide", {}, [])
    with run_lock(folder), run.writing(artifact) as files:
        write_text(files / "records.jsonl", ["words"])
        link_to(folder / "tuned", Path(artifact.folder.name))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(tmp_path / "pages")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    read = local_run(f"http://127.0.0.1:{server.server_port}/runs/demo", "guide")
    server.shutdown()
    assert read != folder and (read / "tuned" / "records.jsonl").read_text() == "words"


def test_http_is_not_written() -> None:
    folder = runs_folder("http://127.0.0.1:9/runs") / "demo"
    with pytest.raises(RunError, match=r"^http://127.0.0.1:9/runs/demo cannot be"), run_lock(folder):
        pass
