"""Clients of one or several servers of OpenAI's protocol: throughput, seconds to the first text, seconds an answer.

    python benchmarks/serving_http.py http://127.0.0.1:8000/v1 gemma-3-270m:cbs-4-4-5 --clients 1 16
    python benchmarks/serving_http.py http://127.0.0.1:8001/v1,http://127.0.0.1:8000/v1 NAME   # in turns

Each client sends its next request when the last one is answered; all answers are streamed. Of several addresses
(a server, two of them behind a proxy, vLLM's) each round measures one after the other, so that what else the machine
does meets all of them. Throughput is returned tokens a second. All are asked for the same sampling.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import openai

OPENINGS = ["I really", "This film", "The story of", "Nobody who", "What a", "After the war", "My sister", "In the end"]


@dataclass
class Measured:
    """What one server has answered, in seconds and tokens."""

    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        return {
            "tokens/s": self.tokens / self.seconds,
            "first text": statistics.median(self.first),
            "answer": statistics.median(self.whole),
            "answer p99": statistics.quantiles(self.whole, n=100)[-1] if len(self.whole) > 1 else self.whole[0],
        }


async def client(
    server: openai.AsyncOpenAI, arguments: argparse.Namespace, numbers: Iterator[int], measured: Measured
) -> None:
    for number in numbers:
        started, first = time.monotonic(), 0.0
        stream = await server.completions.create(
            model=arguments.model, prompt=f"{OPENINGS[number % len(OPENINGS)]} {number}", max_tokens=arguments.tokens,
            seed=openai.NOT_GIVEN if arguments.no_seed else number, temperature=arguments.temperature, top_p=1.0,
            extra_body={"top_k": arguments.top_k}, stream=True, stream_options={"include_usage": True},
        )  # fmt: skip
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].text and not first:
                first = time.monotonic() - started
            if chunk.usage is not None:
                measured.tokens += chunk.usage.completion_tokens
        measured.first.append(first)
        measured.whole.append(time.monotonic() - started)


async def load(url: str, clients: int, arguments: argparse.Namespace, measured: Measured) -> None:
    """Have the requests of as many clients as said answered."""
    numbers, started = iter(range(arguments.requests)), time.monotonic()
    async with openai.AsyncOpenAI(base_url=url, api_key=os.environ.get("API_KEY", "none"), timeout=3600) as server:
        await asyncio.gather(*(client(server, arguments, numbers, measured) for _ in range(clients)))
    measured.seconds += time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", help="addresses as OpenAI's clients take them, with commas between them")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--requests", type=int, default=32, help="of each round")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--no-seed", action="store_true", help="else every request has one")
    arguments = parser.parse_args()
    for clients in arguments.clients:
        found = {url: Measured() for url in arguments.urls.split(",")}
        for _, url in itertools.product(range(arguments.rounds), found):
            asyncio.run(load(url, clients, arguments, found[url]))
        for url, measured in found.items():
            row = {name: round(value, 3) for name, value in measured.row().items()}
            print(json.dumps({"url": url, "clients": clients, **row}))


if __name__ == "__main__":
    main()
