"""Rewards that clients ask for: those of the reward in Python, without cost to what is decoded beside them."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import httpx
import pytest

from serving import RunningServer, serving
from trimtab.errors import ModelError
from trimtab.records import PromptInput
from trimtab.rewards.concise import concise
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.reward import Reward
from trimtab.serve.shared_reward import SharedReward

PROMPT = "I really liked"
MESSAGES = [{"role": "user", "content": "Was it good?"}]
ASKED = {"model": "tiny:bon-2", "seed": 3, "max_tokens": 8, "n": 2, "trimtab": {"reward": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running


def test_rewards_are_those_of_the_reward_in_python(server: RunningServer) -> None:
    answer = server.post("/v1/completions", {**ASKED, "prompt": [PROMPT, "b"], "echo": True}).json()
    texts = [choice["text"] for choice in answer["choices"]]
    prompts = [PROMPT, PROMPT, "b", "b"]
    responses = [text.removeprefix(prompt) for prompt, text in zip(prompts, texts, strict=True)]
    assert answer["trimtab"]["rewards"] == concise(prompts, responses)
    chat = server.post("/v1/chat/completions", {**ASKED, "messages": MESSAGES}).json()
    assert chat["trimtab"]["rewards"] == concise([], [choice["message"]["content"] for choice in chat["choices"]])
    unasked = server.post("/v1/completions", {**ASKED, "prompt": PROMPT, "trimtab": {}}).json()
    assert unasked["trimtab"]["rewards"] is None
    assert unasked["trimtab"]["flops"] == pytest.approx(
        server.post("/v1/completions", {**ASKED, "prompt": PROMPT}).json()["trimtab"]["flops"]
    )


def test_a_stream_ends_with_the_rewards_of_the_whole_answer(server: RunningServer) -> None:
    whole = server.post("/v1/completions", {**ASKED, "prompt": PROMPT}).json()["trimtab"]["rewards"]
    events = streamed(server, {**ASKED, "prompt": PROMPT})
    assert [event["trimtab"]["rewards"] for event in events if "trimtab" in event] == [whole]


def test_a_value_by_the_reward_is_the_reward(server: RunningServer) -> None:
    """The engine and the clients share one reward."""
    settings = {"successors": 3, "value": "reward", "reward": True}
    report = server.post("/v1/completions", {**ASKED, "prompt": PROMPT, "trimtab": settings}).json()["trimtab"]
    assert report["rewards"] == report["values"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": PROMPT, "trimtab": {"reward": 1}}, "trimtab.reward", "give true or false"),
        ({"prompt": [5, 6]}, "prompt", "as a text, not as ids"),
    ],
)
def test_what_cannot_be_scored_is_refused(body: dict[str, Any], param: str, words: str, server: RunningServer) -> None:
    refused = server.post("/v1/completions", {**ASKED, **body})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == param and words in error["message"]


def test_without_a_reward_it_is_refused_before_anything_is_decoded(server: RunningServer) -> None:
    assert server.get("/v1/models").json()["trimtab"]["reward"] == "points"
    with rewarded_by(server, None):
        drawn = server.engine.counters().drawn
        refused = server.post("/v1/completions", {**ASKED, "prompt": PROMPT})
        assert refused.status_code == 400 and "no gold reward" in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] == "trimtab.reward"
        assert server.engine.counters().drawn == drawn
        assert server.get("/v1/models").json()["trimtab"]["reward"] is None


def test_a_reward_that_fails_is_the_servers_fault(server: RunningServer) -> None:
    def failing(texts: Sequence[str]) -> list[float]:
        raise ValueError("no idea")

    def unloadable() -> Reward:
        raise ModelError("the reward cannot be read")

    for load, words in ((lambda: FunctionReward(failing), "no idea"), (unloadable, "cannot be read")):
        with rewarded_by(server, SharedReward(load)):
            answer = server.post("/v1/completions", {**ASKED, "prompt": PROMPT})
            last = streamed(server, {**ASKED, "prompt": PROMPT})[-1]
        assert answer.status_code == 500
        for error in (answer.json()["error"], last["error"]):
            assert error["code"] == "reward_failed" and words in error["message"]


def test_a_reward_that_is_no_number_is_null(server: RunningServer) -> None:
    with rewarded_by(server, SharedReward(lambda: FunctionReward(lambda texts: [float("nan")] * len(texts)))):
        assert server.post("/v1/completions", {**ASKED, "prompt": PROMPT}).json()["trimtab"]["rewards"] == [None, None]


def test_a_reward_is_loaded_once_between_steps_and_scores_beside_them(server: RunningServer) -> None:
    """While a library loads a model, the default dtype of the whole process may be that of its weights."""
    threads: list[str] = []

    def noted(texts: Sequence[str]) -> list[float]:
        threads.append(threading.current_thread().name)
        return [0.0] * len(texts)

    def load() -> Reward:
        threads.append(threading.current_thread().name)
        return FunctionReward(noted)

    with rewarded_by(server, SharedReward(load)):
        for _ in range(2):
            assert server.post("/v1/completions", {**ASKED, "prompt": PROMPT}).status_code == 200
    assert threads == ["trimtab-engine", "trimtab-reward", "trimtab-reward"]


def test_a_slow_reward_holds_no_other_request_up(server: RunningServer) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(texts: Sequence[str]) -> list[float]:
        begun.set()
        assert go_on.wait(30)
        return [1.0] * len(texts)

    found: list[httpx.Response] = []
    ask = partial(server.post, "/v1/completions", {**ASKED, "prompt": PROMPT})
    asking = [threading.Thread(target=lambda: found.append(ask())) for _ in range(2)]
    with rewarded_by(server, SharedReward(lambda: FunctionReward(slow))):
        try:
            for thread in asking:
                thread.start()
            assert begun.wait(30)
            assert server.idle()  # both have been decoded, and wait for their scores
            other = server.post("/v1/completions", {**ASKED, "prompt": PROMPT, "trimtab": {}})
            assert other.status_code == 200 and not found
        finally:
            go_on.set()
            for thread in asking:
                thread.join()
    assert [answer.json()["trimtab"]["rewards"] for answer in found] == [[1.0, 1.0]] * 2


class Counted:
    """A reward that spends 10 FLOPs on a text."""

    flops = 0.0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        self.flops += 10.0 * len(responses)
        return [1.0] * len(responses)


def test_a_shared_reward_is_loaded_once_and_each_user_has_its_own_flops() -> None:
    loaded: list[Counted] = []

    def load() -> Counted:
        loaded.append(Counted())
        return loaded[-1]

    shared = SharedReward(load)
    engine, clients = shared(), shared()
    engine.score(["a"], ["b"])
    clients.score(["a", "b"], ["c", "d"])
    assert (engine.flops, clients.flops, len(loaded)) == (10.0, 20.0, 1)


@contextlib.contextmanager
def rewarded_by(server: RunningServer, reward: SharedReward | None) -> Iterator[None]:
    """Inside, the server has another reward, or none."""
    own = server.service.reward
    object.__setattr__(server.service, "reward", reward)  # it is frozen
    try:
        yield
    finally:
        object.__setattr__(server.service, "reward", own)


def streamed(server: RunningServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a streamed completion; an answer that is no stream counts as one event."""
    with httpx.stream("POST", f"{server.url}/completions", json={**body, "stream": True}, timeout=60) as answer:
        if answer.headers["content-type"].startswith("application/json"):
            return [json.loads(answer.read())]
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
