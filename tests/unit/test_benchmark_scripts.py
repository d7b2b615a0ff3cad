"""The scripts of `benchmarks/` on tiny random models: every workload, what is printed, and the figures written.

`integration/test_benchmarks.py` runs some of them on the embedded models.
"""

import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tiny_hub import tiny_hub

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Script = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def script(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Loads a script by its name; the models that it names are tiny ones."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(hub))
    monkeypatch.setenv("TRIMTAB_CACHE", str(hub.parent / "cache"))
    before = set(sys.modules)

    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def search(script: Script, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script("search")
    tiny = sys.modules["random_models"].Shape(layers=2, heads=2, width=16)
    monkeypatch.setattr(module, "GPT2_XL", tiny)
    monkeypatch.setattr(module, "GPT2", tiny)
    return module


def main(module: ModuleType, monkeypatch: pytest.MonkeyPatch, into: Path, *arguments: str) -> Any:
    """The figures that the script writes."""
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments, "--json", str(into)])
    module.main()
    return json.loads(into.read_text(encoding="utf-8"))


ALL = (
    "cbs", "bon", "eft", "cbs-cross", "sampling", "sampling-large-vocabulary",
    "gpt2-xl-cbs", "gpt2-xl-bon", "gpt2-xl-eft", "gpt2-xl-sampling",
)  # fmt: skip


def test_no_workload_is_left_out(search: ModuleType) -> None:
    assert set(search.workloads(6)) == set(ALL)


@pytest.mark.parametrize("workload", ALL)
def test_every_workload_measures_all_three(
    search: ModuleType, workload: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sizes = ("--prompts", "2", "--tokens", "6", "--repeats", "2", "--dtype", "float32", "--device", "cpu")
    figures = main(search, monkeypatch, tmp_path / "search.json", "--workload", workload, *sizes)
    row, printed = figures[workload], capsys.readouterr().out
    seconds, spread = row["seconds"], row["spread"]
    assert row["ratio"] == seconds["reference"] / seconds["trimtab"]
    assert row["floor_share"] == seconds["floor"] / seconds["trimtab"]
    for kind, (low, high) in spread.items():
        assert 0 < low <= seconds[kind] <= high
    assert all(math.isfinite(peak) for peak in row["peak_gigabytes"].values())
    assert workload in printed and f"{row['ratio']:.1f}" in printed


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


def test_curves(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, figure = script("search_curves"), tmp_path / "curves.svg"
    arguments = ("--curve", "prompts", "--points", "1", "2", "--repeats", "1", "--figure", str(figure))
    figures = main(module, monkeypatch, tmp_path / "curves.json", *arguments)
    assert [row["prompts"] for row in figures["prompts"]] == [1, 2]
    assert "<svg" in figure.read_text(encoding="utf-8")


def test_synthesis(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = ("--prompts", "1", "--samples", "2", "--tokens", "3", "--repeats", "1")
    figures = main(script("synthesis"), monkeypatch, tmp_path / "synthesis.json", *sizes)
    assert set(figures) == {"generate", "trimtab"}
    for row in figures.values():
        assert row["samples_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["tokens_per_second"] * row["seconds"] <= 2 * 3 + 1e-6  # some may have ended before


def test_threads(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = ("--threads", "1", "--calls", "2", "--repeats", "1")
    rows = main(script("threads"), monkeypatch, tmp_path / "threads.json", *sizes)
    assert [(row["operation"], row["busy"]) for row in rows] == [
        (operation, busy) for busy in (0, 1) for operation in ("layer", "step", "load")
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["seconds"]["as it comes"] / row["seconds"]["briefly"])


def test_drift(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In float32 the cached values are those of whole passes but for rounding.

    On these tiny random models that is up to 1.8e-5 nats a token, by the kernels that the processor has (AVX2, AVX512,
    MKL's compatible ones: 1.3e-5 to 1.7e-5 on an AMD EPYC); on the embedded models 5e-6 a token and model.
    """
    sizes = ("--prompts", "1", "--tokens", "6", "--dtype", "float32")
    figures = main(script("drift"), monkeypatch, tmp_path / "drift.json", *sizes)
    assert figures["from caches, against one pass"]["mean_a_token"] < 4e-5
    assert figures["one pass, against float32"]["largest_a_value"] == 0  # the copies are the models themselves


def test_executors(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here alone: tests/faults/test_cluster.py starts Ray."""
    file = tmp_path / "executors.json"
    options = ["--model", "lvwerra/gpt2-imdb", "--blocks", "3", "--prompts", "2", "--tokens", "3", "--ray", ""]
    script("executors").main([*options, "--json", str(file)])
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [(row["where"], row["workers"]) for row in written["figures"]] == [("here", 1), ("here", 2)]
    assert all(row["decoding"] > 0 and row["driver_ms"] > 0 for row in written["figures"])
    assert 0 < written["asked"] < 100_000 and 0 < written["answered"] < 100_000


def test_training(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On equal batches the losses of float32 are TRL's."""
    sizes = ("--variant", "lora", "--pairs", "32", "--repeats", "1", "--dtype", "float32")
    figures = main(script("training"), monkeypatch, tmp_path / "training.json", *sizes)
    ours, theirs = (figures["lora"][kind]["losses"] for kind in ("trimtab", "trl, same batches"))
    assert len(ours) == 2 and ours == pytest.approx(theirs, abs=1e-4)


def test_files_are_matched_by_the_names_of_their_steps(script: Script, tmp_path: Path) -> None:
    """Two runs of the same steps under other hashes: what differs is told by the step, and times are not compared."""
    files_of = script("same_bytes").files_of
    made = []
    for name, digest, text in (("then", "0" * 12, "a"), ("now", "1" * 12, "b")):
        for run, step, index in (("quickstart", "data", "report/artifacts.json"), ("two", "tune", "study.json")):
            artifact = tmp_path / name / run / f"{step}-{digest}"
            artifact.mkdir(parents=True)
            (artifact / "records.jsonl").write_text(text if step == "tune" else "same")
            (artifact / "seconds.json").write_text(digest)
            (tmp_path / name / run / "report").mkdir()
            listed = {step: artifact.name}
            values = listed if run == "quickstart" else {"runs": {"hinge": {"artifacts": listed}}}
            (tmp_path / name / run / index).write_text(json.dumps(values))
            (tmp_path / name / run / "report" / "table.csv").write_text(f"decoder,seconds\nbase,{digest}\n")
        made.append(dict(files_of(tmp_path / name)))
    then, now = made
    assert sorted(then) == sorted(now) and len(then) == 4
    assert [name for name in then if then[name] != now[name]] == ["study hinge: tune: records.jsonl"]


def test_serving(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under a name of its own: a module of the tests is called `serving`, too."""
    del script  # its fixture puts the scripts' folder in front
    spec = importlib.util.spec_from_file_location("benchmark_serving", BENCHMARKS / "serving.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    sizes = ("--models", "tiny", "--clients", "2", "--requests", "2", "--tokens", "4", "--repeats", "1")
    rows = main(module, monkeypatch, tmp_path / "serving.json", *sizes, "--dtype", "float32", "--device", "cpu")
    assert [(row["workload"], row["clients"]) for row in rows] == [("base", 2), ("cbs", 2)]
    for row in rows:
        assert row["ratio"] == row["tokens_a_second"] / row["alone"]
        assert 0 < row["first_token"] <= row["median"] <= row["p99"] and row["rows_gain"] > 0
    figures = main(module, monkeypatch, tmp_path / "soak.json", "--soak", "2")
    assert figures["wrong"] == [] and figures["lost"] == 0 and figures["ends"]["answered"] > 0
