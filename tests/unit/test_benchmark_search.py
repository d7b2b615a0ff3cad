"""The benchmark's workloads for accelerators run without downloads: here with a model of two layers, on the CPU."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("benchmark_search", BENCHMARKS / "search.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    tiny = sys.modules["random_models"].Shape(layers=2, heads=2, width=16)
    monkeypatch.setattr(module, "GPT2_XL", tiny)
    monkeypatch.setattr(module, "GPT2", tiny)
    return module


@pytest.mark.parametrize("name", ["gpt2-xl-cbs", "gpt2-xl-bon", "gpt2-xl-eft", "gpt2-xl-sampling"])
def test_a_workload_for_accelerators_measures_all_three(search: ModuleType, name: str) -> None:
    workload = search.workloads(6)[name]
    found = search.measure(name, workload, search.OPENINGS[:2], "float32", 1, torch.device("cpu"))
    assert min(found["seconds"].values()) > 0
    assert found["ratio"] == found["seconds"]["reference"] / found["seconds"]["trimtab"]


def test_the_tokenizer_of_random_models_gives_texts_back(search: ModuleType) -> None:
    tokenizer = sys.modules["random_models"].byte_pairs()
    assert len(tokenizer) == 50_257
    for text in search.OPENINGS:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text)  # pairs of bytes are tokens


def test_workloads_for_accelerators_are_left_out_on_a_cpu(search: ModuleType) -> None:
    on_cpu = set(search.for_device(search.workloads(6), torch.device("cpu")))
    on_cuda = set(search.for_device(search.workloads(6), torch.device("cuda")))
    assert "cbs" in on_cpu and "gpt2-xl-cbs" in on_cuda
    assert not on_cpu & on_cuda
