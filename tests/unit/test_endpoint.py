"""A judge behind HTTP: asked in batches, waited for, asked again, and given up in one line; on the loopback address."""

import math
import socket
import time

import pytest

from loopback import Answer, rewards, serving
from trimtab.errors import ConfigurationError, DataError, EndpointError
from trimtab.models.http_client import Endpoint
from trimtab.records import Message
from trimtab.rewards.http_reward import EndpointReward


def length(prompt: object, response: str) -> float:
    return float(len(response))


def test_responses_are_asked_for_in_batches_and_in_order() -> None:
    messages: list[Message] = [{"role": "user", "content": "Hi"}]
    with serving(rewards(length)) as server:
        reward = EndpointReward(Endpoint(server.url), batch_size=2)
        assert reward.score(["a", messages, "c"], ["x", "xx", "xxx"]) == [1.0, 2.0, 3.0]
        assert reward.score([], []) == []
    assert server.bodies == [
        {"prompts": ["a", messages], "responses": ["x", "xx"]}, {"prompts": ["c"], "responses": ["xxx"]},
    ]  # fmt: skip


def test_null_sets_a_response_aside() -> None:
    with serving(rewards(lambda prompt, response: None if response == "bad" else 1.0)) as server:
        given = EndpointReward(Endpoint(server.url), 8).score(["p"] * 3, ["good", "bad", "good"])
    assert given[0] == given[2] == 1.0 and math.isnan(given[1])


def test_what_says_not_now_is_asked_again_with_growing_pauses() -> None:
    answers: list[Answer] = [
        (503, {}, {}), (429, {}, {"Retry-After": "7"}), (500, {}, {}), (200, {"rewards": [2.0]}, {}),
    ]  # fmt: skip
    pauses: list[float] = []
    with serving(lambda body: answers.pop(0)) as server:
        service = Endpoint(server.url, attempts=4, pause=pauses.append)
        assert EndpointReward(service, 8).score(["p"], ["r"]) == [2.0]
    assert pauses == [1.0, 7.0, 4.0] and len(server.bodies) == 4


def test_it_is_given_up_after_so_many_attempts_in_one_line() -> None:
    pauses: list[float] = []
    with serving(lambda body: (503, {}, {})) as server:
        service = Endpoint(server.url, attempts=9, pause=pauses.append)
        with pytest.raises(EndpointError, match=r"does not answer \(503 Service Unavailable, 9 attempts\): start it"):
            service.post({})
    assert len(server.bodies) == 9 and pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_nobody_there_is_told_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pauses: list[float] = []
    with pytest.raises(EndpointError, match=rf"http://127\.0\.0\.1:{port}/ does not answer .*2 attempts"):
        Endpoint(f"http://127.0.0.1:{port}/", attempts=2, pause=pauses.append).post({})
    assert pauses == [1.0]
    with pytest.raises(EndpointError, match="is no address"):
        Endpoint("ftp://there/", attempts=2).post({})


def test_an_answer_that_comes_too_late_counts_as_none() -> None:
    def slow(body: object) -> Answer:
        time.sleep(0.5)
        return 200, {"rewards": []}, {}

    with serving(slow) as server, pytest.raises(EndpointError, match=r"does not answer \(ReadTimeout"):
        Endpoint(server.url, timeout=0.05, attempts=1).post({})


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((404, b"no such page", {}), r"refuses the request \(404: no such page\): mend the request or the service"),
        ((200, b"<html>", {}), "answers '<html>', which is no JSON object"),
        ((200, [1.0], {}), "which is no JSON object"),
        ((200, {"scores": [1.0]}, {}), "answers None for 1 responses: it must give"),
        ((200, {"rewards": [1.0, 2.0]}, {}), r"answers \[1.0, 2.0\] for 1 responses"),
        ((200, {"rewards": ["high"]}, {}), "gave 'high' for 'r': a reward must be a number"),
        ((200, {"rewards": ["0.5"]}, {}), "gave '0.5' for 'r': a reward must be a number"),
        ((200, {"rewards": [[0.5]]}, {}), r"gave \[0.5\] for 'r': a reward must be a number"),
        ((200, {"rewards": [{"score": 1}]}, {}), "gave {'score': 1} for 'r': a reward must be a number"),
        ((200, {"rewards": [10**400]}, {}), r"gave 1000.*\.\.\. for 'r': a reward must be a number"),
        ((200, {"rewards": []}, {}), r"answers \[\] for 1 responses"),
        ((200, {"rewards": None}, {}), "answers None for 1 responses"),
        ((200, {"rewards": 1.0}, {}), "answers 1.0 for 1 responses"),
        ((200, {"rewards": {"r": 1.0}}, {}), "answers {'r': 1.0} for 1 responses"),
        ((200, {"rewards": "12"}, {}), "answers 12 for 1 responses"),
        ((200, {"rewards": [{}]}, {}), "gave {} for 'r': a reward must be a number"),
        ((200, b'{"rewards": [1' + b"0" * 400 + b"]}", {}), "gave 1000.* for 'r': a reward must be a number"),
        ((200, b"[" * 9000, {}), "which is no JSON object"),
        ((200, b'{"rewards": ["\xff"]}', {}), "which is no JSON object"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(answer: Answer, line: str) -> None:
    with serving(lambda body: answer) as server, pytest.raises(EndpointError, match=line) as caught:
        EndpointReward(Endpoint(server.url), 8).score(["p"], ["r"])
    assert "\n" not in str(caught.value)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("given", ["NaN", "Infinity", "-Infinity", "1e999", "null"])
def test_what_is_not_finite_is_left_to_whoever_takes_means(given: str) -> None:
    with serving(lambda body: (200, f'{{"rewards": [{given}, 1]}}'.encode(), {})) as server:
        first, second = EndpointReward(Endpoint(server.url), 8).score(["p", "p"], ["r", "s"])
    assert not math.isfinite(first) and second == 1.0


@pytest.mark.parametrize(("prompt", "response"), [("Hi \ud83d", "x"), ("Hi", "x \udcff")])
def test_half_a_character_is_not_sent(prompt: str, response: str) -> None:
    with serving(rewards(length)) as server, pytest.raises(DataError, match="half of a character") as caught:
        EndpointReward(Endpoint(server.url), 8).score([prompt], [response])
    assert not server.bodies and "\n" not in str(caught.value)


def test_the_key_is_read_from_the_environment_and_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    with serving(rewards(length)) as server:
        Endpoint(server.url, key_variable="JUDGE_KEY").post({"prompts": [], "responses": []})
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    with pytest.raises(ConfigurationError, match="no variable NO_SUCH_KEY"):
        Endpoint(server.url, key_variable="NO_SUCH_KEY")
