"""Twenty seconds of clients that hang up, read slowly, send rubbish or a wrong key, beside clients that do not: no
answer is wrong, none is lost, and the server is left as it was."""

import asyncio
import contextlib
import json
import os
import random
import socket
from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest

from serving import RunningServer, serving
from trimtab.serve.gate import GateSettings
from trimtab.serve.requests import Limits

SECONDS = 20.0
KEY = "the-right-key"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
DECODERS = ["base", "bon-3", "cbs-2-2-4", "eft-0.5"]
BODIES = [
    {}, {"prompt": [[[1]]]}, {"prompt": [10**9]}, {"prompt": "a", "trimtab": {"value": {"by": ["a"]}}},
    {"prompt": "a", "trimtab": {"reject": {"at": [3, 1]}, "successors": 2}},
    {"prompt": "a", "model": "tiny:bon-999999"}, {"prompt": "\ud800"}, {"prompt": "a", "seed": 10**400},
    {"prompt": "a" * 5_000}, {"prompt": "a", "stop_token_ids": [10**9]},
]  # fmt: skip
RUBBISH = [
    b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 50_000, b'{"model": "tiny", "prompt": "a", "n": 1e999}',
    b'{"model": "tiny", "prompt": NaN}', b'{"model": "tiny", "prompt": "a", "seed": 1' + b"0" * 5_000 + b"}",
    *(json.dumps({"model": "tiny", **body}).encode() for body in BODIES),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    limits, gate = Limits(rows=48, request_rows=24, queue=200), GateSettings(key=KEY, max_body_bytes=100_000)
    with serving(tmp_path_factory.mktemp("models"), limits, gate) as running:
        yield running


class Clients:
    """Clients of each kind, each in a loop until time is up; `answers`: what sound ones asked, and what they got."""

    def __init__(self, server: RunningServer, seconds: float) -> None:
        self.server, self.end = server, asyncio.get_running_loop().time() + seconds
        self.answers: dict[tuple[str, str, int, int], set[str]] = {}
        self.rounds: dict[str, int] = {}

    def going(self, kind: str) -> bool:
        self.rounds[kind] = self.rounds.get(kind, -1) + 1
        return asyncio.get_running_loop().time() < self.end

    async def sound(self, number: int) -> None:
        draw = random.Random(number)
        async with openai.AsyncOpenAI(base_url=self.server.url, api_key=KEY, max_retries=0, timeout=120) as client:
            while self.going("sound"):
                asked = (
                    draw.choice(DECODERS),
                    draw.choice(["I really", "Film 1"]),
                    draw.randrange(3),
                    draw.randint(2, 12),
                )
                name, prompt, seed, tokens = asked
                body = {"model": f"tiny:{name}", "prompt": prompt, "seed": seed, "max_tokens": tokens}
                if draw.random() < 0.5:
                    text = (await client.completions.create(**body)).choices[0].text
                else:
                    stream = await client.completions.create(**body, stream=True)
                    text = "".join([chunk.choices[0].text async for chunk in stream])
                self.answers.setdefault((name, prompt, seed, tokens), set()).add(text)

    async def hanging_up(self, number: int) -> None:
        """Closes the connection before, while or after an answer comes, streamed or not."""
        draw = random.Random(number)
        async with httpx.AsyncClient(headers=HEADERS, timeout=30) as client:
            while self.going("hanging up"):
                body = {
                    "model": f"tiny:{draw.choice(DECODERS)}",
                    "prompt": "a",
                    "max_tokens": 150,
                    "stream": draw.random() < 0.5,
                }
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(draw.random()):
                        async with client.stream("POST", f"{self.server.url}/completions", json=body) as answer:
                            async for _ in answer.aiter_raw():
                                if draw.random() < 0.3:
                                    break

    async def slow(self, number: int) -> None:
        """Sends its request in pieces and leaves the answer unread for a while."""
        while self.going("slow"):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=2**10)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            body = b'{"model": "tiny", "prompt": "a", "max_tokens": 200, "stream": true, "return_token_ids": true}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            for part in (head[:50].encode(), head[50:].encode(), body[:20], body[20:]):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
            answer = await reader.read(-1)
            assert b"data: [DONE]" in answer
            writer.close()

    async def sending_rubbish(self, number: int) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(headers=HEADERS, timeout=60) as client:
            while self.going("rubbish"):
                route = draw.choice(["completions", "chat/completions"])
                answer = await client.post(f"{self.server.url}/{route}", content=draw.choice(RUBBISH))
                assert 400 <= answer.status_code < 500, answer.text
                assert answer.json()["error"]["message"]
                large = await client.post(f"{self.server.url}/completions", content=b"a" * 200_000)
                assert large.status_code == 413
                wrong = await client.get(f"{self.server.url}/models", headers={"Authorization": "Bearer wrong"})
                assert wrong.status_code == 401
                await self._no_http()
                await asyncio.sleep(0.05)

    async def _no_http(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(os.urandom(200))
        await writer.drain()
        writer.close()


async def trouble(server: RunningServer, seconds: float) -> Clients:
    clients = Clients(server, seconds)
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(clients.sound(number))
        for number in range(3):
            group.create_task(clients.hanging_up(number))
            group.create_task(clients.slow(number))
            group.create_task(clients.sending_rubbish(number))
    return clients


def test_clients_in_trouble_cost_others_nothing(server: RunningServer) -> None:
    asyncio.run(trouble(server, 2))  # what is made once is made now
    assert server.idle()
    process = psutil.Process()
    files, memory = process.num_fds(), process.memory_info().rss
    clients = asyncio.run(trouble(server, SECONDS))
    assert min(clients.rounds.values()) >= 3, clients.rounds
    for (name, prompt, seed, tokens), texts in clients.answers.items():
        wanted = server.guided(name, seed=seed, max_new_tokens=tokens).generate(prompt)
        assert texts == {wanted}, (name, prompt, seed, tokens)
    assert server.idle(), server.engine.counters()
    counted = server.engine.counters()
    assert sum(count for (_, outcome), count in counted.requests.items() if outcome == "failed") == 0
    assert sum(count for (_, outcome), count in counted.requests.items() if outcome == "cancelled") > 0
    assert process.num_fds() <= files + 5
    assert process.memory_info().rss <= memory + 100e6
