"""The server as OpenAI's own package sees it: answers are those of the decoder in Python, whole or streamed."""

import asyncio
import itertools
import json
import runpy
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serving import RunningServer, serving
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.serve.gate import GateSettings
from trimtab.serve.requests import Limits

PROMPT = "I really liked"
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Was it good?"}]
DECODERS = ["base", "bon-4", "cbs-2-3-4", "eft-0.5", "tuned", "untuned-bon-2", "eft-0.5-cbs-2-2-3"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("models"), Limits(rows=64, request_rows=32, queue=64)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


@pytest.mark.parametrize("name", DECODERS)
def test_an_answer_is_that_of_the_decoder_in_python(name: str, server: RunningServer, client: openai.OpenAI) -> None:
    guided = server.guided(name, seed=5, max_new_tokens=12)
    completion = client.completions.create(model=f"tiny:{name}", prompt=PROMPT, seed=5, n=2, max_tokens=12)
    assert [choice.text for choice in completion.choices] == guided.generate([PROMPT] * 2)
    assert [choice.index for choice in completion.choices] == [0, 1]
    chat = client.chat.completions.create(model=f"tiny:{name}", messages=MESSAGES, seed=5, max_completion_tokens=12)
    assert chat.choices[0].message.content == guided.generate(MESSAGES)
    assert chat.choices[0].message.role == "assistant"


@pytest.mark.parametrize("name", DECODERS)
def test_a_stream_has_the_same_answer(name: str, server: RunningServer, client: openai.OpenAI) -> None:
    (hypotheses,) = server.guided(name, seed=6, max_new_tokens=12).hypotheses([MESSAGES])
    chunks = [
        *client.chat.completions.create(
            model=f"tiny:{name}", messages=MESSAGES, seed=6, max_tokens=12, stream=True,
            stream_options={"include_usage": True},
        )
    ]  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == hypotheses[0].text
    assert chunks[-2].choices[0].finish_reason == {"eos": "stop", "length": "length"}[str(hypotheses[0].finish)]
    usage = chunks[-1].usage
    assert usage is not None and not chunks[-1].choices
    assert usage.completion_tokens == len(hypotheses[0].token_ids)
    assert usage.prompt_tokens == len(hypotheses[0].prompt_ids)
    report = chunks[-2].model_extra["trimtab"]
    assert report["seed"] == 6 and report["decoder"] == name
    assert report["values"] == [
        pytest.approx(hypotheses[0].value, abs=1e-9) if "-" in name and name != "eft-0.5" else None
    ]
    assert report["tokens_drawn"] >= usage.completion_tokens


def test_without_being_asked_a_stream_has_no_event_without_choices(client: openai.OpenAI) -> None:
    """Clients read `chunk.choices[0]` of every event."""
    chunks = [*client.completions.create(model="tiny:bon-2", prompt=["a", "b"], n=2, max_tokens=3, stream=True)]
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2, 3}
    assert len([chunk for chunk in chunks if chunk.choices[0].finish_reason]) == 4


def test_many_clients_at_once_get_the_answers_that_each_gets_alone(server: RunningServer) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        name = DECODERS[number % len(DECODERS)]
        prompt, asked = f"Film {number % 5}", {"model": f"tiny:{name}", "seed": number, "max_tokens": 4 + number % 9}
        if number % 2:
            return (await client.completions.create(prompt=prompt, **asked)).choices[0].text
        stream = await client.completions.create(prompt=prompt, stream=True, **asked)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(40)))

    answers = asyncio.run(ask_all())
    for number, answer in enumerate(answers):
        name = DECODERS[number % len(DECODERS)]
        guided = server.guided(name, seed=number, max_new_tokens=4 + number % 9)
        assert answer == guided.generate(f"Film {number % 5}"), (number, name)


def test_sampling_stop_and_settings_of_the_search(server: RunningServer, client: openai.OpenAI) -> None:
    free = server.guided("base", seed=2, temperature=0.5, top_p=0.9, min_p=0.01).generate(PROMPT)
    stop = free[4:6]
    answer = client.completions.create(
        model="tiny", prompt=PROMPT, seed=2, temperature=0.5, top_p=0.9, stop=[stop], extra_body={"min_p": 0.01}
    )
    choice = answer.choices[0]
    assert choice.text == free[: free.index(stop)]
    assert (choice.finish_reason, choice.model_extra["stop_reason"]) == ("stop", stop)
    settings = {"width": 2, "successors": 3, "chunk": 4, "value": {"by": "implicit", "per_token": True}}
    answer = client.completions.create(model="tiny", prompt=PROMPT, seed=2, extra_body={"trimtab": settings})
    decoder = server.service.names.decoder("tiny").model_validate(settings)
    assert answer.choices[0].text == server.guided_by(decoder, seed=2).generate(PROMPT)
    assert answer.model_extra["trimtab"]["decoder"] == decoder.name


def test_without_a_seed_answers_differ_and_name_theirs(server: RunningServer, client: openai.OpenAI) -> None:
    answers = [client.completions.create(model="tiny:bon-2", prompt=PROMPT) for _ in range(3)]
    assert len({answer.choices[0].text for answer in answers}) > 1
    seed = answers[0].model_extra["trimtab"]["seed"]
    assert answers[0].choices[0].text == server.guided("bon-2", seed=seed).generate(PROMPT)


@pytest.mark.parametrize("name", ["base", "eft-0.5", "bon-3"])
def test_log_probabilities_are_the_models_own(name: str, server: RunningServer, client: openai.OpenAI) -> None:
    guided = server.guided(name, seed=3)
    (hypotheses,) = guided.hypotheses([MESSAGES])
    answer = client.chat.completions.create(
        model=f"tiny:{name}",
        messages=MESSAGES,
        seed=3,
        logprobs=True,
        top_logprobs=2,
        extra_body={"return_token_ids": True},
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert choice.model_extra["token_ids"] == hypotheses[0].token_ids
    logs = [token.logprob for token in choice.logprobs.content]
    assert len(logs) == len(hypotheses[0].token_ids)
    (whole,) = sequence_log_probabilities(guided.base, [MESSAGES], [hypotheses[0].token_ids])
    assert sum(logs) == pytest.approx(whole, abs=1e-9)
    likely = [len(token.top_logprobs) for token in choice.logprobs.content]
    assert likely == [2 if name != "bon-3" else 0] * len(logs)


def test_a_stream_has_the_log_probabilities_and_ids_of_the_whole_answer(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "seed": 4, "logprobs": 1, "echo": True, "max_tokens": 6}
    whole = client.completions.create(**asked, extra_body={"return_token_ids": True}).choices[0]
    chunks = [*client.completions.create(**asked, stream=True, extra_body={"return_token_ids": True})]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert whole.text.startswith(PROMPT)
    for field in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        parts = [vars(chunk.choices[0].logprobs)[field] for chunk in chunks if chunk.choices[0].logprobs]
        assert [*itertools.chain(*parts)] == vars(whole.logprobs)[field], field
    ids = [chunk.choices[0].model_extra.get("token_ids") or [] for chunk in chunks]
    assert [*itertools.chain(*ids)] == whole.model_extra["token_ids"]


def test_steps_of_the_search_are_streamed_where_asked_for(client: openai.OpenAI) -> None:
    asked = {"model": "tiny:cbs-2-3-4", "prompt": PROMPT, "seed": 7, "max_tokens": 12}
    answer = client.completions.create(**asked).choices[0].text
    chunks = [*client.completions.create(**asked, stream=True, extra_body={"trimtab": {"steps": True}})]
    steps = [chunk.model_extra["trimtab"]["step"] for chunk in chunks if not chunk.choices]
    assert [step["number"] for step in steps] == [*range(len(steps))] and len(steps) > 1
    for step in steps:
        kept = [candidate for candidate in step["candidates"] if candidate["kept"] is not None]
        assert len(kept) <= 2
        assert all(candidate["dropped"] for candidate in step["candidates"] if candidate["kept"] is None)
    assert max(steps[-1]["candidates"], key=lambda candidate: candidate["value"])["text"] == answer
    with pytest.raises(openai.BadRequestError, match="give stream: true"):
        client.completions.create(**asked, extra_body={"trimtab": {"steps": True}})


def test_models_are_decoders(server: RunningServer, client: openai.OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed[0] == "tiny" and {"tiny:tuned", "tiny:bon-16", "tiny:cbs-4-4-5", "tiny:eft-0.5"} <= {*listed}
    card = client.models.retrieve("tiny:cbs-2-3-4")
    assert card.model_extra["description"] == "chunk-level beam search (CBS 2/3/4)"
    assert card.model_extra["max_model_len"] == 256
    with pytest.raises(openai.NotFoundError, match="did you mean tiny:bon-16"):
        client.models.retrieve("tiny:bom-16")
    ids = server.post("/tokenize", {"model": "tiny", "messages": MESSAGES}).json()["tokens"]
    (hypotheses,) = server.guided().hypotheses([MESSAGES])
    assert ids == hypotheses[0].prompt_ids


@pytest.mark.parametrize(
    ("asked", "code", "param"),
    [
        ({"max_tokens": 1000}, "context_length_exceeded", "messages"),
        ({"extra_body": {"trimtab": {"successors": 33}}}, "too_many_rows", None),
        ({"n": 33}, "too_many_rows", None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None, "tools"),
        ({"response_format": {"type": "json_object"}}, None, "response_format"),
        ({"logit_bias": {"5": 1}}, None, "logit_bias"),
        ({"extra_body": {"trimtab": {"value": "os:system"}}}, None, "trimtab.value"),
    ],
)
def test_refusals_have_openais_form(asked: dict, code: str | None, param: str | None, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, **asked})
    error = caught.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert "\n" not in error.body["message"]


def test_usage_counts_a_prompt_once_and_every_returned_token(server: RunningServer, client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny:bon-4", prompt=[PROMPT, "b"], n=2, seed=1, max_tokens=9)
    groups = server.guided("bon-4", seed=1, max_new_tokens=9).hypotheses([PROMPT] * 2)
    groups += server.guided("bon-4", seed=1, max_new_tokens=9).hypotheses(["b"] * 2)
    usage, report = answer.usage, answer.model_extra["trimtab"]
    assert usage is not None
    assert usage.completion_tokens == sum(len(group[0].token_ids) for group in groups)
    assert usage.prompt_tokens == len(groups[0][0].prompt_ids) + len(groups[2][0].prompt_ids)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert [choice.text for choice in answer.choices] == [group[0].text for group in groups]
    assert report["values"] == pytest.approx([group[0].value for group in groups], abs=1e-9)
    assert usage.completion_tokens < report["tokens_drawn"] <= 4 * 4 * 9
    assert report["flops"] > 0 and report["guide_tokens"] > 0


def test_the_gate(server: RunningServer) -> None:
    settings = GateSettings(key="secret-key", max_body_bytes=20_000)
    folder = Path(server.served.models["large"].name).parent
    with serving(folder, Limits(queue=0, rows=16), settings) as locked:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret-key"}):
            for path in ("/v1/models", "/metrics", "/nowhere"):
                refused = locked.get(path, headers=headers)
                assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        assert locked.get("/health").status_code == 200
        key = {"Authorization": "Bearer secret-key"}
        assert locked.get("/v1/models", headers=key).status_code == 200
        large = {"model": "tiny", "prompt": "a" * 30_000}
        for body in (json.dumps(large).encode(), iter([json.dumps(large).encode()])):  # with and without its length
            refused = httpx.post(f"{locked.url}/completions", content=body, headers=key)
            assert refused.status_code == 413 and refused.json()["error"]["code"] == "request_too_large"
        named = locked.get("/v1/models", headers={**key, "X-Request-Id": "mine-1"})
        assert named.headers["x-request-id"] == "mine-1"
        assert len(locked.get("/health", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]) == 32
        counted = locked.get("/metrics", headers=key).text
        assert 'trimtab_refusals_total{code="invalid_api_key"} 9.0' in counted
        assert 'trimtab_refusals_total{code="request_too_large"} 2.0' in counted


def test_a_full_queue_says_when_to_come_again(server: RunningServer) -> None:
    folder = Path(server.served.models["large"].name).parent
    with serving(folder, Limits(queue=1, rows=4, request_rows=4)) as small:
        client = openai.OpenAI(base_url=small.url, api_key="none", max_retries=0)
        long = {"model": "tiny:bon-4", "prompt": PROMPT, "max_tokens": 200, "seed": 0}
        streams = [client.completions.create(**long, stream=True) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as caught:
            for _ in range(3):  # the first may still find a place
                client.completions.create(**long, stream=True)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        for stream in streams:
            stream.close()
        assert small.idle()


def access_log(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    """The lines of the access log, once there are `count` of them: an answer is logged after the client has it."""
    for _ in range(200):
        lines = [record.getMessage() for record in caplog.records if record.name == "trimtab.serve.access"]
        if len(lines) >= count:
            break
        time.sleep(0.05)
    return lines


def test_no_prompt_and_no_key_is_logged(
    server: RunningServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("DEBUG", "trimtab")
    secret = "the-prompt-of-nobody"
    for body in ({"prompt": secret}, {"prompt": secret, "tools": [secret]}, {"prompt": secret, "n": secret}):
        server.post("/v1/completions", {"model": "tiny", **body}, headers={"Authorization": f"Bearer {secret}"})
    lines = access_log(caplog, 3)
    assert len(lines) == 3 and all("/v1/completions" in line for line in lines)
    assert "returned=" in lines[0] and "refused=tools" in lines[1]
    assert secret not in caplog.text
    folder = Path(server.served.models["large"].name).parent
    with serving(folder, settings=GateSettings(log_bodies=True)) as telling:
        telling.post("/v1/completions", {"model": "tiny", "prompt": secret, "max_tokens": 1})
    assert secret in caplog.text


def test_the_log_says_which_streams_were_cut(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trimtab.serve.access")
    body = {"model": "tiny:cbs-2-2-2", "prompt": PROMPT, "max_tokens": 230, "stream": True, "seed": 0}
    with httpx.stream("POST", f"{server.url}/completions", json=body, timeout=60) as answer:
        next(answer.iter_raw())
    assert server.idle()
    lines = access_log(caplog, 1)
    assert len(lines) == 1 and "cut=True" in lines[0] and "returned=" not in lines[0]


def test_a_body_that_does_not_come_is_waited_for_in_vain(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.serve.gate.BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"x-request-id" in answer.lower()


def test_a_slow_step_is_bridged_by_comments(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.serve.streams.KEEP_ALIVE_SECONDS", 0.02)
    body: dict[str, Any] = {"model": "tiny:bon-16", "prompt": PROMPT, "max_tokens": 200, "stream": True, "seed": 0}
    with httpx.stream("POST", f"{server.url}/completions", json=body, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert ": working" in lines
    assert [line for line in lines if line != ": working"][-1] == "data: [DONE]"
    assert all(line.startswith((": ", "data: ")) for line in lines)


def test_the_benchmark_of_servers_measures_any_of_them(
    server: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(__file__).parents[2] / "benchmarks/serving_http.py"
    small = ["--clients", "1", "3", "--requests", "4", "--rounds", "1", "--tokens", "5"]
    monkeypatch.setattr("sys.argv", [str(file), f"{server.url},{server.url}/", "tiny:bon-2", *small])
    runpy.run_path(str(file), run_name="__main__")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["url"], row["clients"]) for row in rows] == [
        (url, clients) for clients in (1, 3) for url in (server.url, f"{server.url}/")
    ]
    assert all(row["tokens/s"] > 0 and 0 < row["first text"] <= row["answer p99"] for row in rows)
