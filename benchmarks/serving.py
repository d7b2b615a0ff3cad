"""The server's engine under load, beside one request after the other: same models, same requests, one run.

    python benchmarks/serving.py                                   # 1, 4, 16 and 64 clients, base and CBS 4/4/5
    python benchmarks/serving.py --workload cbs --clients 16 --json serving.json
    python benchmarks/serving.py --models gemma                    # Gemma 3 270M under guides with another vocabulary
    python benchmarks/serving.py --models random                   # small models with random weights; no downloads
    python benchmarks/serving.py --soak 600                        # faults: clients that hang up, NaN, no memory

Each client sends its next request when the last one is answered. `alone` is `GuidedModel.generate`, one request after
the other. Throughput is returned tokens a second; a ratio is throughput over that of `alone`, measured in turns, and
`CPU ratio` the same by the process's own time, which other programs do not change. `rows' gain` is what the batch alone
gives: tokens a second of transformers' forward pass over the rows of all clients, over those of one request's rows.
First token: seconds from the request to its first text.
"""

import argparse
import gc
import json
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from random_models import Shape, byte_pairs, random_gpt2
from search import OPENINGS, SAMPLING, load, workloads
from serving_soak import soak
from trimtab.config.guide import DecoderConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.hardware import default_device, pick_dtype
from trimtab.models.own_thread import in_own_thread
from trimtab.models.vocabulary import Vocabulary
from trimtab.search.guided_model import GuidedModel
from trimtab.search.value import ImplicitValue
from trimtab.serve.engine import Engine
from trimtab.serve.engine_entry import search_of
from trimtab.serve.engine_parts import DecoderParts
from trimtab.serve.requests import GenerationRequest, Limits, RequestEnd, RequestFailed, TextPiece

SHAPES = {"random": (Shape(6, 6, 384), Shape(2, 6, 384)), "tiny": (Shape(2, 2, 32), Shape(1, 2, 32))}
EMBEDDED = {"smollm2": "cbs", "gemma": "cbs-cross"}
"""Models that need no hub, and the workload of `benchmarks/search.py` that has them."""
DECODERS = {"base": DecoderConfig(), "cbs": DecoderConfig(width=4, successors=4, chunk=5)}


@dataclass
class Measured:
    """What one run of some requests gave, in seconds and tokens."""

    seconds: float = 0.0
    processor: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return self.tokens / self.seconds


def parts_of(kind: str, dtype: torch.dtype, device: torch.device) -> dict[str, DecoderParts]:
    """The decoders' parts. `smollm2`: SmolLM2 under two guides of its lowest 8 layers, and `gemma`: Gemma 3 270M under
    two of the whole SmolLM2, as `benchmarks/search.py` has them; `random`: models of a few layers with random weights;
    `tiny`: smaller ones yet."""
    if kind in EMBEDDED:
        models = load(workloads(50)[EMBEDDED[kind]], dtype, device)
        given = models.base, models.tuned, models.untuned
        tokenizers = models.base_tokenizer, models.guide_tokenizer, models.guide_tokenizer
    else:
        large, small = SHAPES[kind]
        given = tuple(random_gpt2(shape, dtype, device, seed) for seed, shape in enumerate((large, small, small)))
        tokenizers = (byte_pairs(),) * 3
    base, tuned, untuned = (
        CachedModel(model, Vocabulary(tokenizer)) for model, tokenizer in zip(given, tokenizers, strict=True)
    )
    value = ImplicitValue(tuned, untuned, base)
    return {"base": DecoderParts(base, None), "cbs": DecoderParts(base, value, (tuned, untuned))}


def requests(workload: str, count: int, tokens: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            id=f"{workload}-{number}",
            prompt=OPENINGS[number % len(OPENINGS)],
            decoder=DECODERS[workload],
            sampling=SAMPLING,
            max_new_tokens=tokens,
            seed=number,
            stream=True,
        )
        for number in range(count)
    ]


def alone(parts: DecoderParts, given: Sequence[GenerationRequest]) -> Measured:
    """One request after the other, as a program in Python makes them."""
    measured, started, used = Measured(), time.monotonic(), time.process_time()
    for request in given:
        search = search_of(request)
        model = GuidedModel(parts.model, parts.value, search, request.sampling, request.stop, request.seed)
        begun = time.monotonic()
        ((best, *_),) = model.hypotheses([request.prompt])
        measured.whole.append(time.monotonic() - begun)
        measured.tokens += len(best.token_ids)
    measured.seconds, measured.processor = time.monotonic() - started, time.process_time() - used
    return measured


def together(engine: Engine, given: Sequence[GenerationRequest], clients: int) -> Measured:
    """The requests of so many clients, each of which sends its next one when the last one is answered."""
    measured, left, lock = Measured(), list(reversed(given)), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                if not left:
                    return
                request = left.pop()
            begun, first = time.monotonic(), None
            for event in engine.submit(request):
                if isinstance(event, TextPiece) and first is None:
                    first = time.monotonic() - begun
                if isinstance(event, RequestFailed):
                    raise event.error
                if isinstance(event, RequestEnd):
                    with lock:
                        measured.tokens += event.usage.returned
                        measured.first += [] if first is None else [first]
                        measured.whole.append(time.monotonic() - begun)

    threads, used, started = (
        [threading.Thread(target=client) for _ in range(clients)],
        time.process_time(),
        time.monotonic(),
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured.seconds, measured.processor = time.monotonic() - started, time.process_time() - used
    return measured


class Loaded:
    """The parts of decoders that are loaded already, as the engine asks for them."""

    def __init__(self, parts: Mapping[str, DecoderParts]) -> None:
        self._parts = {DECODERS[name].name: part for name, part in parts.items()}

    def __call__(self, decoder: DecoderConfig) -> DecoderParts:
        return self._parts[decoder.name]

    known = __call__


def measure(parts: dict[str, DecoderParts], workload: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of clients; `alone` is measured before each, on the requests of one client in turn."""
    rows, decoder = [], DECODERS[workload]
    in_own_thread(partial(alone, parts[workload], requests(workload, 1, options.tokens)))  # warms up
    for clients in options.clients:
        count = max(options.requests, clients)
        sequential, served = [], []
        for _ in range(options.repeats):
            few = requests(workload, min(options.requests, count), options.tokens)
            sequential.append(in_own_thread(partial(alone, parts[workload], few)))
            engine = Engine(Loaded(parts), Limits(rows=options.rows))
            served.append(together(engine, requests(workload, count, options.tokens), clients))
            engine.close()
            gc.collect()
        one, many = (sorted(runs, key=lambda run: run.throughput)[len(runs) // 2] for runs in (sequential, served))
        rows.append({
            "workload": workload,
            "clients": clients,
            "tokens_a_second": many.throughput,
            "alone": one.throughput,
            "ratio": many.throughput / one.throughput,
            "rows_gain": in_own_thread(partial(gain_of_rows, parts[workload], decoder, clients, options.rows)),
            "cpu_ratio": (many.tokens / many.processor) / (one.tokens / one.processor),
            "first_token": statistics.median(many.first),
            "median": statistics.median(many.whole),
            "p99": sorted(many.whole)[min(len(many.whole) - 1, int(0.99 * len(many.whole)))],
            "alone_median": statistics.median(one.whole),
        })  # fmt: skip
    return rows


def gain_of_rows(parts: DecoderParts, decoder: DecoderConfig, clients: int, most: int) -> float:
    """How many times the tokens a second of one request's rows the model itself gives over the rows of all clients."""
    one = decoder.width * decoder.successors
    many = min(most, one * clients)
    assert isinstance(parts.model, CachedModel)
    return many * _forward_seconds(parts.model.model, one) / (one * _forward_seconds(parts.model.model, many))


def _forward_seconds(model: PreTrainedModel, rows: int, context: int = 30, passes: int = 5) -> float:
    """Median seconds of a forward pass of one token for each row, by transformers' own cache."""
    seconds = []
    with torch.inference_mode():
        ids = torch.zeros((rows, context), dtype=torch.long, device=model.device)
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        for _ in range(passes + 1):  # the first warms up
            begun = time.monotonic()
            model(ids[:, :1], past_key_values=cache, use_cache=True)[0].sum().item()
            seconds.append(time.monotonic() - begun)
    return statistics.median(seconds[1:])


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title="returned tokens a second, seconds")
    for name in (
        "workload",
        "clients",
        "tokens/s",
        "alone",
        "ratio",
        "rows' gain",
        "CPU ratio",
        "first token",
        "median",
        "p99",
        "alone, median",
    ):
        shown.add_column(name, justify="left" if name == "workload" else "right")
    for row in rows:
        workload, clients, *numbers = row.values()
        shown.add_row(workload, str(clients), *(f"{number:.3g}" for number in numbers))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(DECODERS), action="append", help="which decoders (default: all)")
    parser.add_argument("--models", choices=[*EMBEDDED, *SHAPES], default="smollm2")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--requests", type=int, default=32, help="for each number of clients, at least one a client")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--device", default=None)
    parser.add_argument("--soak", type=float, help="seconds of faults instead, on tiny models")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.soak is not None:
        parts = parts_of("tiny", torch.float64, torch.device("cpu"))
        given = [
            replace(one, n=1 + number % 2) for name in DECODERS for number, one in enumerate(requests(name, 6, 12))
        ]
        figures: Any = soak(Loaded(parts), given, options.soak)
        Console().print(figures)
    else:
        device = torch.device(options.device) if options.device else default_device()
        parts = in_own_thread(partial(parts_of, options.models, pick_dtype(options.dtype, device), device))
        figures = [row for name in options.workload or DECODERS for row in measure(parts, name, options)]
        Console(width=120).print(table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
