"""What clients get where something is wrong: with their list of prompts, the reward, the engine, or the server."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sse_starlette.sse import AppStatus

from serving import RunningServer, serving
from trimtab.errors import ModelError
from trimtab.records import PromptInput
from trimtab.rewards.reward import Reward
from trimtab.serve import shared_reward
from trimtab.serve.app import application
from trimtab.serve.formats import CompletionFormat
from trimtab.serve.gate import GateSettings
from trimtab.serve.requests import Limits
from trimtab.serve.shared_reward import SharedReward

ASKED = {"model": "tiny:bon-2", "prompt": "I really", "seed": 3, "max_tokens": 4, "trimtab": {"reward": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    with serving(folder) as running:
        yield running


def streamed(server: RunningServer, body: dict[str, Any]) -> list[str]:
    """The data of a streamed completion's events."""
    with httpx.stream("POST", f"{server.url}/completions", json={**body, "stream": True}, timeout=60) as answer:
        return [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]


@pytest.fixture
def rewarded_by(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[SharedReward], None]:
    """Gives the server another reward until the test ends."""
    return lambda reward: monkeypatch.setitem(vars(server.service), "reward", reward)


@pytest.mark.parametrize("name", ["base", "cbs-2-2-2"])
def test_equal_prompts_of_a_list_get_the_answers_of_the_list_in_python(name: str, server: RunningServer) -> None:
    guided = server.guided(name, seed=9, temperature=1.0, max_new_tokens=8)
    asked = {"model": f"tiny:{name}", "temperature": 1, "seed": 9, "max_tokens": 8}
    for n, prompts in ((1, ["A", "A", "A"]), (2, ["A", "B", "A"])):
        answer = server.post("/v1/completions", {**asked, "prompt": prompts, "n": n}).json()
        texts = [choice["text"] for choice in answer["choices"]]
        assert texts == guided.generate([prompt for prompt in prompts for _ in range(n)])
    ids = server.post("/tokenize", {"model": "tiny", "prompt": "A"}).json()["tokens"]
    answer = server.post("/v1/completions", {**asked, "prompt": [ids, ids, ids]}).json()
    assert len({choice["text"] for choice in answer["choices"]}) > 1


def test_a_list_longer_than_the_queue_is_refused_for_good(folder: Path) -> None:
    with serving(folder, Limits(queue=2, rows=1)) as small:
        asked = {"model": "tiny", "max_tokens": 2}
        refused = small.post("/v1/completions", {**asked, "prompt": ["a", "b", "c"]})
        assert refused.status_code == 400
        assert refused.json()["error"] == {
            "message": "3 prompts are more than the queue of this server holds: send at most 2 at once",
            "type": "invalid_request_error", "param": "prompt", "code": None,
        }  # fmt: skip
        assert small.post("/v1/completions", {**asked, "prompt": ["a", "b"]}).status_code == 200


def test_a_server_whose_engine_has_stopped_is_not_healthy(folder: Path) -> None:
    with serving(folder) as stopped:
        assert stopped.get("/health").json() == {"status": "ok"}
        stopped.engine.close()
        answer = stopped.get("/health")
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_stopped"


class Failing:
    """A reward of a user's own class that does what it is told."""

    flops = 0.0

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        given: list[float] = self._act()
        return given


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (raising(ValueError("no idea")), "(ValueError: no idea)"),
        (raising(RuntimeError("not enough memory")), "(RuntimeError: not enough memory)"),
        (raising(StopIteration()), "(StopIteration)"),
        (raising(SystemExit(3)), "(SystemExit: 3)"),
        (raising(MemoryError()), "(MemoryError)"),
        (lambda: ["good"], "must be a number"),
        (lambda: [1.0, 2.0], "2 rewards for 1 texts"),
    ],
)
def test_whatever_a_reward_raises_or_gives_has_its_code(
    act: Callable[[], Any], words: str, server: RunningServer, rewarded_by: Callable[[SharedReward], None]
) -> None:
    rewarded_by(SharedReward(lambda: Failing(act)))
    answer = server.post("/v1/completions", ASKED)
    *_, last, done = streamed(server, ASKED)
    assert (answer.status_code, done) == (500, "[DONE]")
    for error in (answer.json()["error"], json.loads(last)["error"]):
        assert error["code"] == "reward_failed" and words in error["message"]


def test_a_missing_score_of_a_users_reward_is_null(
    server: RunningServer, rewarded_by: Callable[[SharedReward], None]
) -> None:
    rewarded_by(SharedReward(lambda: Failing(lambda: [None])))
    assert server.post("/v1/completions", ASKED).json()["trimtab"]["rewards"] == [None]


@pytest.mark.parametrize(
    "error", [ModelError("it cannot be read"), ValueError("it cannot be read"), SystemExit("it cannot be read")]
)
def test_a_reward_that_cannot_be_loaded_is_tried_again_after_a_minute(
    error: BaseException,
    server: RunningServer,
    rewarded_by: Callable[[SharedReward], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All requests wait while it is loaded."""
    tried: list[int] = []

    def load() -> Reward:
        tried.append(1)
        if len(tried) == 1:
            raise error
        return Failing(lambda: [1.0])

    shared = SharedReward(load)
    rewarded_by(shared)
    for _ in range(3):
        answer = server.post("/v1/completions", ASKED)
        assert answer.status_code == 500 and "it cannot be read" in answer.json()["error"]["message"]
        assert answer.json()["error"]["code"] == "reward_failed"
    assert len(tried) == 1
    now = shared_reward.time.monotonic()
    monkeypatch.setattr("trimtab.serve.shared_reward.time.monotonic", lambda: now + 61)
    shared()
    monkeypatch.undo()
    rewarded_by(shared)
    assert server.post("/v1/completions", ASKED).json()["trimtab"]["rewards"] == [1.0]
    assert len(tried) == 2


def test_a_stream_ends_in_order_whatever_goes_wrong(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret")

    monkeypatch.setattr(CompletionFormat, "piece", broken)
    *_, last, done = streamed(server, {**ASKED, "trimtab": {}})
    assert done == "[DONE]"
    error = json.loads(last)["error"]
    assert error["type"] == "server_error" and re.fullmatch(
        "a fault of the server, request [0-9a-f]{32}: see its log", error["message"]
    )
    assert server.idle()


def test_streams_are_not_cut_at_shutdown_even_where_none_has_run_before(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AppStatus, "enable_automatic_graceful_drain", True)
    application(server.service, GateSettings())
    assert not AppStatus.enable_automatic_graceful_drain


def test_the_first_text_is_of_the_answer_streamed_or_not(server: RunningServer) -> None:
    """Neither an echoed prompt nor an end without text is one."""

    def noted() -> float:
        lines = server.get("/metrics").text.splitlines()
        name = "trimtab_time_to_first_token_seconds_count"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    nothing = {"model": "tiny", "prompt": "A", "max_tokens": 0, "echo": True}
    for body, more in ((nothing, 0), ({**nothing, "max_tokens": 5, "seed": 3}, 1)):
        for stream in (False, True):
            before = noted()
            server.post("/v1/completions", {**body, "stream": stream})
            assert noted() == before + more, (body, stream)


def test_scores_come_one_after_the_other(server: RunningServer, rewarded_by: Callable[[SharedReward], None]) -> None:
    inside: list[int] = []

    def act() -> list[float]:
        inside.append(1)
        assert len(inside) == 1
        threading.Event().wait(0.05)
        inside.clear()
        return [1.0]

    rewarded_by(SharedReward(lambda: Failing(act)))
    found: list[int] = []
    asking = [
        threading.Thread(target=lambda: found.append(server.post("/v1/completions", ASKED).status_code))
        for _ in range(5)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert found == [200] * 5
