"""Every block of docs/api.md is run, on tiny models behind a path map and a real server on the loopback address."""

import re
from pathlib import Path

import pytest
from rich.table import Table

from completions_server import serving
from harness_task import local_task
from tiny import language_model, llama
from tiny_hub import save_causal_lm, tiny_hub
from trimtab.config.file import load_experiment

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_blocks_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tiny_hub(tmp_path / "hub")))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    save_causal_lm(tmp_path / "runs/quickstart/tuned", llama(9))
    settings = {"until": ["."], "max_gen_toks": 4}
    tasks = local_task(tmp_path, "my_task", [{"prompt": "I really", "answer": " liked"}], generation_kwargs=settings)
    names = {"experiment": _experiment(), "runs": tmp_path / "runs", "tasks": tasks}
    with serving(language_model(0)) as server:
        for block in BLOCKS:
            block = block.replace("http://127.0.0.1:8000/v1", server.url)
            exec(compile(block, "api.md", "exec"), names)  # the page is ours
    assert isinstance(names["line"].table, Table) and names["line"].report
    assert len(names["texts"]) == 2 and "exact_match,none" in names["results"]["results"]["my_task"]
    said = capsys.readouterr().out
    assert "nats: " in said and "Usage(requests=1, prompt_tokens=" in said


def _experiment():
    settings = [
        "name=notebook", "reward.max_length=64", "reward.training=null", "reward.model=lvwerra/distilbert-imdb",
        "reward.positive_label=POSITIVE", "data.reward_reviews=40", "data.reward_heldout=20", "data.judge_reviews=20",
        "data.tuning_prompts=8", "data.validation_prompts=4", "data.test_prompts=4", "guide.max_new_tokens=4",
        "synthesize.max_new_tokens=4", "synthesize.samples=2", "evaluate.bootstrap=100", "tune.lora.top_layers=1",
        "tune.batch_size=8", "tune.evaluations=1", "guide.decoders=[{}, {successors: 2}]",
    ]  # fmt: skip
    return load_experiment(DOCS.parent / "experiments/quickstart.yaml", settings)
