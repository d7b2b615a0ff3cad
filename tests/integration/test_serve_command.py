"""`trimtab serve` as a command: what it serves, what it says, how it ends, and what it refuses in one line."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import trimtab
from serving import RunningServer, save_models
from small_run import SmallRun
from tiny_hub import save_preferences
from trimtab.assets.resolve import Assets
from trimtab.cli import main
from trimtab.config.guide import DecoderConfig
from trimtab.errors import ConfigurationError, RunError
from trimtab.serve.gate import GateSettings
from trimtab.serve.loading import Served, Source, of_file, of_models, of_run
from trimtab.serve.options import ServeOptions
from trimtab.serve.requests import Limits
from trimtab.serve.server import load_service
from warm import Warm


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The directory of a run that has finished, and the path map of its models."""
    folder, warm = tmp_path_factory.mktemp("run"), Warm()
    try:
        small = SmallRun(warm, folder)
        assert small.finish("run", folder) == 0, small.errors(folder)
        yield folder / "quickstart", small.path_map
    finally:
        warm.close()


def test_models_are_loaded_by_a_thread_that_ends(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its helpers would slow down the engine's."""
    threads: list[threading.Thread] = []

    class Noting(Served):
        def __init__(self, source: Source, assets: Assets, name: str | None = None) -> None:
            threads.append(threading.current_thread())
            super().__init__(source, assets, name)

    monkeypatch.setattr("trimtab.serve.server.Served", Noting)
    load_service(ServeOptions(large=str(models["large"]))).engine.close()
    assert [thread.is_alive() for thread in threads] == [False]


def test_a_finished_run_lends_its_models_its_decoders_and_its_reward(finished: tuple[Path, Path]) -> None:
    run, path_map = finished
    source = of_run(run)
    served = Served(source, Assets(path_map=path_map))
    names = ["base", "bon-4", "gold-bon-4", "cbs-2-2-3", "eft-1", "tuned", "untuned", "bon-16", "cbs-4-4-5"]
    # no eft-0.5: the large model has another vocabulary
    assert served.names.listed() == ["gemma-3-270m", *(f"gemma-3-270m:{name}" for name in names)]
    assert Path(served.models["tuned"].name).resolve() == (run / "tuned").resolve()
    assert served.missing(DecoderConfig(beta=0.5)) is None
    assert served.gold is not None and served.gold().score(["a"], ["b"])
    assert not served.conversations
    assert served.rows("auto") >= 16 and served.rows(7) == 7


def test_a_decoder_of_a_run_is_loaded_in_one_line(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It decodes as what `Guide.steer` makes of the run's models and settings."""
    run, path_map = finished
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(path_map))
    made = of_run(run).experiment
    assert made.large is not None
    large = trimtab.load(made.large)
    guide = trimtab.Guide(str(run / "tuned"), made.small.name)
    search = trimtab.Search(width=2, successors=2, chunk=3, max_new_tokens=made.guide.max_new_tokens)
    by_hand = guide.steer(large, search=search, sampling=made.guide.sampling, seed=made.seed)
    loaded = trimtab.load_run(run, "cbs-2-2-3")
    ((one, *_),), ((other, *_),) = (guided.hypotheses(["This film"]) for guided in (loaded, by_hand))
    assert (one.text, one.value) == (other.text, other.value) and one.text
    assert trimtab.load_run(run, "gold-bon-4").generate(["This film", "I"])
    assert trimtab.load_run(run, "bon-3").search.successors == 3, "another search of the same models"
    with pytest.raises(ConfigurationError, match=r"has no decoder cbs-2-2: did you mean cbs-2-2-3\?"):
        trimtab.load_run(run, "cbs-2-2")
    with pytest.raises(RunError, match="is no finished run"):
        trimtab.load_run(run.parent, "base")


def test_a_run_that_has_no_report_or_lacks_a_model_is_refused(finished: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no finished run .* finish it first by `trimtab run`"):
        of_run(tmp_path)
    run, _ = finished
    (tmp_path / "report").mkdir()
    for name in ("experiment.json", "artifacts.json"):
        (tmp_path / "report" / name).write_bytes((run / "report" / name).read_bytes())
    with pytest.raises(RunError, match=r"is not whole: make it again by `trimtab run`"):
        of_run(tmp_path)
    (tmp_path / "report" / "experiment.json").write_text("{}")
    with pytest.raises(RunError, match=r"cannot be read \(.*\): write it again by `trimtab run`"):
        of_run(tmp_path)


def test_a_short_file_names_models_alone(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    values = {
        "name": "mine", "large": {"name": str(models["large"])}, "small": {"name": str(models["untuned"])},
        "guide": {"tuned": {"name": str(models["tuned"])}, "decoders": [{"name": "mine", "successors": 3}]},
    }  # fmt: skip
    file.write_text(json.dumps(values))
    served = Served(of_file(file, tmp_path, Assets()), Assets(), "named")
    assert {"named", "named:mine", "named:eft-0.5"} <= {*served.names.listed()}
    assert served.gold is None
    assert served.missing(DecoderConfig(successors=2, value=[{"by": "reward"}])) == "the gold reward"


def test_a_file_may_name_a_pair_alone(models: dict[str, Path], tmp_path: Path) -> None:
    """Then the untuned model is what is decoded."""
    file = tmp_path / "pair.yaml"
    tuned, untuned = ({"name": str(models[role])} for role in ("tuned", "untuned"))
    guide = {"decoders": [{"model": "untuned"}], "tuned": tuned}
    file.write_text(json.dumps({"name": "pair", "large": None, "small": untuned, "guide": guide}))
    served = Served(of_file(file, tmp_path, Assets()), Assets())
    assert served.names.listed()[:3] == ["untuned", "untuned:untuned", "untuned:tuned"]
    assert served.names.decoder("untuned:bon-3").model == "untuned"
    assert served.missing(DecoderConfig()) == "a large model"


def test_a_decoder_of_models_that_are_not_there_is_refused(models: dict[str, Path]) -> None:
    served = Served(of_models(str(models["large"]), None, None, "{prompt}"), Assets(), "tiny")
    assert served.names.listed() == ["tiny", "tiny:base"]
    server = RunningServer(served, Limits(rows=16), GateSettings())
    try:
        for name in ("tiny:tuned", "tiny:untuned", "tiny:bon-2", "tiny:eft-1"):
            answers = [
                server.get(f"/v1/models/{name}"),
                server.post("/tokenize", {"model": name, "prompt": "a"}),
                server.post("/v1/completions", {"model": name, "prompt": "a"}),
            ]
            assert [answer.status_code for answer in answers] == [400] * 3, name
            assert "which is not served here" in answers[0].json()["error"]["message"]
        body = {"model": "tiny", "prompt": "a", "trimtab": {"successors": 2}}
        assert server.post("/v1/completions", body).status_code == 400
        assert server.post("/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 1}).status_code == 200
    finally:
        server.stop()


def test_emulated_fine_tuning_over_unlike_vocabularies_is_refused(finished: tuple[Path, Path]) -> None:
    run, path_map = finished
    server = RunningServer(Served(of_run(run), Assets(path_map=path_map)), Limits(rows=16), GateSettings())
    try:
        for answer in (
            server.get("/v1/models/gemma-3-270m:eft-0.5"),
            server.post("/v1/completions", {"model": "gemma-3-270m:eft-0.5", "prompt": "a"}),
        ):
            assert answer.status_code == 400 and "vocabular" in answer.json()["error"]["message"]
        picked = {"model": "gemma-3-270m:gold-bon-4", "prompt": "This film", "max_tokens": 4, "seed": 1}
        assert server.post("/v1/completions", picked).json()["trimtab"]["values"][0] is not None
        chat = {"model": "gemma-3-270m:cbs-2-2-3", "messages": [{"role": "user", "content": "This film"}], "seed": 2}
        one = server.post("/v1/chat/completions", chat).json()["choices"][0]["message"]["content"]
        text = {"model": "gemma-3-270m:cbs-2-2-3", "prompt": "This film", "seed": 2}
        assert one == server.post("/v1/completions", text).json()["choices"][0]["text"]
        refused = server.post("/v1/chat/completions", {**chat, "messages": chat["messages"] * 2})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "messages"
    finally:
        server.stop()


def test_a_file_that_tunes_wants_its_tuned_model(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "tunes.yaml"
    small = {"name": str(models["untuned"])}
    data = {"preferences": str(save_preferences(tmp_path / "pairs"))}
    file.write_text(json.dumps({"name": "tunes", "large": None, "small": small, "data": data,
                                "guide": {"decoders": [{"model": "tuned"}]}}))  # fmt: skip
    with pytest.raises(RunError, match=r"run `trimtab tune .*` first, or name a tuned one in guide\.tuned"):
        of_file(file, tmp_path, Assets())


def started(*arguments: str, environment: dict[str, str] | None = None) -> tuple[subprocess.Popen, list[str]]:
    """A server in a process of its own, and the four lines that it says once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab", "serve", *arguments, "--port", "0"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    lines = [process.stdout.readline().rstrip("\n") for _ in range(4)]
    assert all(lines), process.stderr.read()
    return process, lines


def test_the_command_says_how_to_call_it_and_lets_running_requests_end(models: dict[str, Path]) -> None:
    names = [f"--{role}={folder}" for role, folder in models.items()]
    process, lines = started(*names, "--api-key-variable", "TINY_KEY", environment={"TINY_KEY": "secret-key"})
    try:
        address = re.fullmatch(r"trimtab serves (http://127\.0\.0\.1:\d+)/v1", lines[0])
        assert address is not None
        assert lines[1].startswith("models: tiny, tiny:base, ")
        assert lines[3] == f"or open {address[1]}/ in a browser"
        curl = shlex.split(lines[2].removeprefix("try: ").replace("$TINY_KEY", "secret-key"))
        assert curl[0] == "curl"
        headers = dict(curl[n + 1].split(": ") for n, word in enumerate(curl) if word == "-H")
        answer = httpx.post(curl[1], content=curl[curl.index("-d") + 1], headers=headers, timeout=60)
        assert answer.status_code == 200 and answer.json()["choices"][0]["text"]
        body = {"model": "tiny:cbs-2-2-2", "prompt": "a", "max_tokens": 200, "stream": True, "seed": 1}
        with httpx.stream("POST", f"{address[1]}/v1/completions", json=body, headers=headers, timeout=60) as stream:
            events = stream.iter_lines()
            first = next(line for line in events if line.startswith("data: "))
            process.send_signal(signal.SIGTERM)
            rest = [line for line in events if line]
        assert json.loads(first.removeprefix("data: "))["choices"][0]["text"]
        assert rest[-1] == "data: [DONE]" and '"finish_reason":"length"' in rest[-2]
        assert process.wait(30) == 0
        _, log = process.communicate()
        assert "secret-key" not in log and "Traceback" not in log
        assert re.search(r"POST /v1/completions 200 .* model='tiny:cbs-2-2-2' .*returned=", log)
    finally:
        process.kill()


def test_what_still_runs_when_the_drain_is_over_is_told_so(models: dict[str, Path]) -> None:
    process, lines = started(f"--large={models['large']}", "--rows", "2", "--drain-seconds", "1")
    try:
        address = lines[0].removeprefix("trimtab serves ")
        body = {"model": "tiny", "prompt": [f"{n}" for n in range(100)], "max_tokens": 200, "seed": 1}
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{address}/completions", json=body, timeout=60))
        )
        with httpx.stream("POST", f"{address}/completions", json={**body, "stream": True}, timeout=60) as stream:
            events = stream.iter_lines()
            next(line for line in events if line.startswith("data: "))
            asking.start()
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            *_, last, done = [line.removeprefix("data: ") for line in events if line.startswith("data: ")]
        asking.join()
        assert done == "[DONE]"
        for error in (json.loads(last)["error"], answers[0].json()["error"]):
            assert (error["code"], error["type"]) == ("shutting_down", "server_error")
        assert answers[0].status_code == 503
        assert process.wait(30) == 0
        _, log = process.communicate()
        assert "Traceback" not in log and "Cancel" not in log
    finally:
        process.kill()


def test_a_reward_that_hangs_does_not_keep_the_server(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(
        "import time\n\ndef hangs(texts):\n    print('scoring', flush=True)\n    time.sleep(1000)\n"
    )
    file = tmp_path / "hangs.yaml"
    roles = {"large": models["large"], "small": models["untuned"]}
    file.write_text(
        json.dumps(
            {
                "name": "hangs", **{role: {"name": str(folder)} for role, folder in roles.items()},
                "guide": {"tuned": {"name": str(models["tuned"])}}, "reward": {"by": f"{tmp_path}/hangs.py:hangs"},
            }
        )
    )  # fmt: skip
    process, lines = started(str(file), "--drain-seconds", "0.5")
    try:
        address = lines[0].removeprefix("trimtab serves ")
        body = {"model": "tiny", "prompt": "a", "max_tokens": 2, "trimtab": {"reward": True}}
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{address}/completions", json=body, timeout=60))
        )
        asking.start()
        assert process.stdout is not None and process.stdout.readline() == "scoring\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        asking.join()
        assert answers[0].status_code == 503 and answers[0].json()["error"]["code"] == "shutting_down"
    finally:
        process.kill()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a run directory or an experiment file to serve, or --large"),
        (["runs/x", "--large", "y"], "give a run directory or an experiment file to serve, or --large"),
        (["runs/x", "--tuned", "y"], "leave out --tuned and --untuned"),
        (["--large", "y", "--tuned", "z"], "give both --tuned and --untuned"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["--large", "y", "--queue", "-1"], "--queue is -1: give at least 1"),
        (["--large", "y", "--queue", "0"], "--queue is 0: give at least 1"),
        (["--large", "y", "--drain-seconds", "nan"], "--drain-seconds is nan"),
        (["--large", "y", "--api-key-variable", "NO_SUCH_KEY"], "the environment has no NO_SUCH_KEY"),
        (["--large", "y", "--port", "TAKEN"], "cannot be listened on (Address already in use): give another"),
        (["--large", "y", "--host", "no.such.host.invalid"], "cannot be listened on"),
        (["--large", "/no/such/model"], "/no/such/model"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    arguments: list[str], words: str, taken: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [str(taken) if argument == "TAKEN" else argument for argument in arguments]
    port = [] if "--port" in named else ["--port", "0"]
    monkeypatch.setattr(sys, "argv", ["trimtab", "serve", *named, *port])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trimtab: ") and words in line


def test_without_the_extra_the_remedy_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sse_starlette" else object())
    monkeypatch.setattr(sys, "argv", ["trimtab", "serve", "--large", "y"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        'trimtab: the server\'s libraries are not installed: pip install "trimtab[serve]"'
    ]
