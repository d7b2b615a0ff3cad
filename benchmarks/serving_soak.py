"""The engine under faults: clients that hang up, read slowly or send rubbish, a model that gives NaN, memory that runs
out. Every answer is compared with that of `GuidedModel.generate`, and no request may be left without an end.

    figures = soak(parts_of, requests, seconds=20)
    figures["wrong"], figures["lost"]                # 0, 0
"""

import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch

from trimtab.errors import ModelError, TrimtabError
from trimtab.models.language_model import LanguageModel
from trimtab.search.guided_model import GuidedModel
from trimtab.serve.engine import Engine
from trimtab.serve.engine_entry import search_of
from trimtab.serve.engine_parts import PartsOf
from trimtab.serve.requests import (
    CancelledError,
    ChoiceEnd,
    GenerationRequest,
    Limits,
    QueueFullError,
    RequestEnd,
    RequestFailed,
    TextPiece,
)

POISON = (7, 3, 7, 3)
"""A prompt for which the spoiled model gives NaN."""
PATIENCE_SECONDS = 300.0  # a request without an end after so long is lost
WARM_UP = 0.3  # of the time, after which memory and files are counted first


@dataclass
class Tally:
    """What has happened to requests, and what has gone wrong."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, end: str) -> None:
        with self.lock:
            self.ends[end] += 1

    def complain(self, what: str) -> None:
        with self.lock:
            self.wrong.append(what)


def answers_of(parts_of: PartsOf, requests: Sequence[GenerationRequest]) -> dict[str, list[str]]:
    """What each request must be answered: the texts of Python, by the request's id."""
    answers = {}
    for request in requests:
        parts, search = parts_of(request.decoder), search_of(replace(request, stream=False))
        model = GuidedModel(parts.model, parts.value, search, request.sampling, request.stop, request.seed)
        answers[request.id] = model.generate([request.prompt] * request.n)
    return answers


def spoil(model: LanguageModel, seed: int, share: float) -> Callable[[], None]:
    """Have a model give NaN for `POISON`, and run out of memory in some of its calls; undone by what is returned."""
    chance, reading = random.Random(seed), model.next_logits

    def spoiled(state: Any) -> torch.Tensor:
        if len(state.ids) > 1 and chance.random() < share:
            raise torch.OutOfMemoryError("out of memory (a fault of the soak)")
        logits = reading(state)
        poisoned = [row for row, ids in enumerate(state.ids) if tuple(ids[: len(POISON)]) == POISON]
        if poisoned:
            logits = logits.clone()
            logits[poisoned] = torch.nan
        return logits

    model.next_logits = spoiled
    return lambda: vars(model).pop("next_logits")


class Client(threading.Thread):
    """Sends requests until the deadline, most of them in one of the ways that clients have of being a nuisance."""

    def __init__(
        self, engine: Engine, requests: Sequence[GenerationRequest], answers: dict[str, list[str]], tally: Tally,
        deadline: float, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.engine, self.requests, self.answers, self.tally = engine, requests, answers, tally
        self.deadline, self.chance = deadline, random.Random(seed)

    def run(self) -> None:
        ways = [self.read, self.read, self.read, self.hang_up, self.read_slowly, self.send_rubbish, self.poison]
        while time.monotonic() < self.deadline:
            request = self.chance.choice(self.requests)
            try:
                self.chance.choice(ways)(request)
            except QueueFullError as refusal:
                self.tally.note("refused")
                time.sleep(min(0.2, refusal.retry_after))
            except Exception as error:  # noqa: BLE001 (it is a finding)
                self.tally.complain(f"{request.id}: {type(error).__name__}: {error}")

    def read(self, request: GenerationRequest, pause: float = 0.0) -> None:
        texts, ends = [""] * request.n, 0
        for event in self.engine.submit(request):
            time.sleep(pause)
            match event:
                case TextPiece():
                    texts[event.choice] += event.text
                case ChoiceEnd():
                    ends += 1
                case RequestFailed():
                    self.tally.complain(f"{request.id} has failed: {event.error}")
                case RequestEnd():
                    self.tally.note("answered")
                    if texts != self.answers[request.id] or ends != request.n:
                        self.tally.complain(f"{request.id}: {texts} instead of {self.answers[request.id]}")

    def read_slowly(self, request: GenerationRequest) -> None:
        self.read(request, 0.02)

    def hang_up(self, request: GenerationRequest) -> None:
        handle = self.engine.submit(request)
        count = self.chance.randrange(3)
        for number, event in enumerate(handle):
            if number == count:
                handle.cancel()
            if isinstance(event, RequestFailed) and not isinstance(event.error, CancelledError):
                self.tally.complain(f"{request.id}, cancelled, has failed: {event.error}")
        self.tally.note("hung up")

    def send_rubbish(self, request: GenerationRequest) -> None:
        rubbish: list[dict[str, Any]] = [
            {"n": 0}, {"seed": -1}, {"stop": ("",)}, {"prompt": 5}, {"prompt": ()}, {"prompt": (10**9,)},
            {"max_new_tokens": 10**9}, {"n": 10**6}, {"stop_token_ids": (-1,)},
        ]  # fmt: skip
        wrong = self.chance.choice(rubbish)
        try:
            self.engine.submit(replace(request, **wrong))
            self.tally.complain(f"{wrong} was taken on")
        except QueueFullError:
            raise
        except TrimtabError as error:
            self.tally.note("rubbish")
            if "\n" in str(error):
                self.tally.complain(f"{wrong}: more than one line: {error}")

    def poison(self, request: GenerationRequest) -> None:
        *_, last = self.engine.submit(replace(request, prompt=POISON, stop=()))
        if isinstance(last, RequestFailed) and isinstance(last.error, ModelError):
            self.tally.note("NaN")
        else:
            self.tally.complain(f"a poisoned request ended with {last}")


def soak(
    parts_of: PartsOf,
    requests: Sequence[GenerationRequest],
    seconds: float,
    *,
    clients: int = 200,
    share: float = 0.01,
    seed: int = 0,
) -> dict[str, Any]:
    """Run so many clients for so long; all float64 models of `requests` are spoiled meanwhile.

    Returns:
        `ends`: how often requests ended in which way. `wrong`: what went wrong. `lost`: clients without an end. `cuts`:
        how often memory ran out. `growth`: bytes, files and threads, from `WARM_UP` of the time to its end.
    """
    answers, tally = answers_of(parts_of, requests), Tally()
    models = {id(model): model for model in (parts_of(request.decoder).model for request in requests)}
    undo = [spoil(model, seed + number, share) for number, model in enumerate(models.values())]
    engine = Engine(parts_of, Limits(rows=64, queue=clients // 2, slice_tokens=16))
    started, process = time.monotonic(), psutil.Process()
    crowd = [Client(engine, requests, answers, tally, started + seconds, seed + n) for n in range(clients)]
    for client in crowd:
        client.start()
    time.sleep(WARM_UP * seconds)
    before = _held(process)
    time.sleep((1 - WARM_UP) * seconds)
    after = _held(process)
    for client in crowd:
        client.join(max(0.0, started + seconds + PATIENCE_SECONDS - time.monotonic()))
    lost = sum(client.is_alive() for client in crowd)
    counters = engine.counters()
    engine.close()
    for undone in undo:
        undone()
    if not lost and (counters.rows or counters.queued or counters.running):
        tally.complain(f"rows are left: {counters}")
    return {
        "ends": dict(tally.ends),
        "wrong": tally.wrong,
        "lost": lost,
        "cuts": counters.memory_cuts,
        "growth": {name: after[name] - before[name] for name in after},
    }


def _held(process: psutil.Process) -> dict[str, int]:
    gc.collect()
    return {"bytes": process.memory_info().rss, "files": process.num_fds()}
