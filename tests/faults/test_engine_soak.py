"""The engine for some seconds under clients that misbehave, a model that gives NaN, and memory that runs out."""

import importlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from served import random_request, tiny_parts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_twenty_seconds_of_faults_lose_no_answer_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    soak = importlib.import_module("serving_soak").soak
    chance = random.Random(3)
    requests = [replace(random_request(chance, number), logprobs=None, n=1 + number % 2) for number in range(40)]
    figures = soak(tiny_parts(), requests, seconds=20, clients=40)
    assert figures["wrong"] == [] and figures["lost"] == 0
    assert {"answered", "hung up", "rubbish", "NaN"} <= figures["ends"].keys()
    assert figures["cuts"] > 0
    assert figures["growth"]["files"] <= 0 and figures["growth"]["bytes"] < 64 << 20, figures["growth"]
