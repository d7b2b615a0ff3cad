"""`trimtab check --models` shows of each model which way it is decoded, and loads what a run would load."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from tiny import llama
from tiny_hub import save_causal_lm
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.file import load_experiment
from trimtab.errors import ModelError
from trimtab.models.hardware import default_device
from trimtab.pipeline import survey as module
from trimtab.pipeline.survey import Survey, survey
from zoo import CACHED, REREAD

DEVICE = str(torch.empty(0, device=default_device()).device)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    save_causal_lm(tmp_path / "llama", llama(1))
    save_causal_lm(tmp_path / "gpt2", CACHED["gpt2"](0))
    save_causal_lm(tmp_path / "mamba", REREAD["mamba"](0))
    return tmp_path


def written(hub: Path, **values: object) -> Path:
    file = hub / "mine.yaml"
    plain = {"name": "mine", "small": {"name": str(hub / "llama"), "dtype": "float32"}}
    file.write_text(yaml.safe_dump({**plain, **values}), encoding="utf-8")
    return file


def surveyed(file: Path) -> dict[str, Survey]:
    return {row.parts: row for row in survey([load_experiment(file)], Assets(cache=file.parent / "cache"))}


def test_each_model_is_shown_once_with_its_parts_and_its_way(hub: Path) -> None:
    small, large = {"name": str(hub / "llama"), "dtype": "bfloat16"}, {"name": str(hub / "mamba"), "dtype": "float32"}
    other = {"name": str(hub / "gpt2"), "dtype": "float16", "attention": "eager"}
    terms = [{"weight": 1.0, "tuned": other, "untuned": small}]
    rows = surveyed(
        written(
            hub, small=small, large=large, guide={"decoders": [{"name": "both", "model": "large", "emulate": terms}]}
        )
    )
    assert set(rows) == {"small, untuned of both", "large", "tuned of both", "tuned"}
    cached = rows["small, untuned of both"]
    assert cached == Survey("small, untuned of both", str(hub / "llama"), "through a cache", DEVICE, "bfloat16", "sdpa")
    assert rows["large"].decoded == (
        "read anew for every token: its layers keep a running state of the text, which cannot be forked and cut back"
    )
    assert (rows["tuned of both"].dtype, rows["tuned of both"].attention) == ("float16", "eager")
    assert rows["tuned"].decoded == "as small is"


def test_a_served_model_is_shown_and_not_asked(hub: Path) -> None:
    large = {"name": "huge", "endpoint": "http://127.0.0.1:9/v1"}
    rows = surveyed(written(hub, large=large, guide={"decoders": [{"model": "large", "successors": 2}]}))
    assert rows["large"].decoded == "served at http://127.0.0.1:9/v1, which sends back texts"
    assert (rows["large"].device, rows["large"].dtype) == ("-", "-")


def test_models_of_other_names_are_not_held_at_the_same_time(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    sound = module.load_language_model

    def counted(config: object, weights: module.Weights) -> object:
        language = sound(config, weights)
        held.append(len(weights._loaded))
        return language

    monkeypatch.setattr(module, "load_language_model", counted)
    surveyed(written(hub, large={"name": str(hub / "gpt2")}))
    assert held == [1, 1]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["trimtab", *arguments])
    cli.main()


def test_the_command_prints_the_table_for_an_experiment_and_for_a_study(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(hub, large={"name": "mine/mamba", "dtype": "float32"})
    (hub / "paths.yaml").write_text(f"mine/mamba: {hub / 'mamba'}\n", encoding="utf-8")
    run(monkeypatch, "check", str(file), "--quick", "--models", "--path-map", str(hub / "paths.yaml"))
    out = capsys.readouterr().out
    assert "mine: sound" in out and "through a cache" in out and "mine/mamba" in out and "read anew" in out
    study = hub / "study.yaml"
    study.write_text(
        yaml.safe_dump({"name": "grid", "experiment": str(file), "grid": {"tune.beta": [0.1, 1.0]}}), encoding="utf-8"
    )
    run(monkeypatch, "check", str(study), "--quick", "--models", "--path-map", str(hub / "paths.yaml"))
    out = capsys.readouterr().out
    assert "2 cells" in out and out.count("mine/mamba") == 1


def test_a_model_that_cannot_be_loaded_is_one_line(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "check", str(written(hub, small={"name": str(hub / "nowhere")})), "--models")
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and len(error.splitlines()) == 1 and "nowhere" in error


def test_without_the_option_no_model_is_loaded(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModelError("loaded")

    monkeypatch.setattr(module, "load_language_model", fail)
    run(monkeypatch, "check", str(written(hub)), "--quick")
    with pytest.raises(SystemExit):
        run(monkeypatch, "check", str(written(hub)), "--quick", "--models")
