"""A whole study on tiny random models: what is shared, what a failure takes with it, processes beside one another."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from small_study import EXPERIMENT, save_study, study_bytes
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.training import TuneConfig
from trimtab.errors import RunError
from trimtab.executors import local
from trimtab.executors.options import WorkerOptions
from trimtab.executors.run import run as run_steps
from trimtab.executors.work import Work
from trimtab.pipeline.decoded import read_decoded
from trimtab.store.artifacts import RunDirectory
from trimtab.store.progress import watching
from trimtab.study.plan import plan_study
from trimtab.study.run import Outcome, run_study
from trimtab.study.study_file import Study, load_study
from trimtab.study.view import StudyView
from trimtab.training import preference


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


def assets(hub: Path) -> Assets:
    return Assets(cache=hub.parent / "cache", path_map=hub)


def run(study: Study, folder: Path, hub: Path, jobs: int = 1) -> Outcome:
    with watching(quiet=True) as watch:
        return run_study(study, folder, assets(hub), watch, StudyView(), WorkerOptions(jobs, threads=1))


@pytest.fixture(scope="module")
def whole(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two cells under two seeds, made by one process."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = run(load_study(save_study(folder)), folder, hub)
    assert not outcome.failures and [row.name for row in outcome.rows] == ["untuned", "hinge", "sigmoid"]
    return folder


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "two" / "report" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def made(folder: Path) -> dict[str, int]:
    """How many artifacts each stage has."""
    counts: dict[str, int] = {}
    for path in (folder / "two").glob("*-????????????"):
        counts[path.name[:-13]] = counts.get(path.name[:-13], 0) + 1
    return counts


def test_what_cells_share_is_made_once(whole: Path) -> None:
    assert made(whole) == {
        "data": 1, "reward": 1, "judge": 1, "synthesize": 2, "pairs": 1,  # synthesize: tuning and validation prompts
        "tune": 4, "guide": 5, "evaluate": 5, "divergence": 4,
    }  # fmt: skip


def test_the_plan_says_so_before_anything_is_made(hub: Path, tmp_path: Path) -> None:
    plan = plan_study(load_study(save_study(tmp_path)), RunDirectory(tmp_path / "two"), assets(hub))
    shared = {task.name: len(task.runs) for task in plan.tasks.values() if len(task.runs) > 1}
    assert set(shared.values()) == {4} and {"data", "synthesize tuning", "pairs", "evaluate untuned"} <= set(shared)
    assert [task.name for task in plan.tasks.values() if task.step.stage == "tune"] == [
        "tune: hinge-seed-0", "tune: hinge-seed-1", "tune: sigmoid-seed-0", "tune: sigmoid-seed-1",
    ]  # fmt: skip
    assert not list((tmp_path / "two").iterdir())


def test_a_second_run_makes_nothing_and_gives_the_same_tables(whole: Path, hub: Path) -> None:
    before = study_bytes(whole)
    times = {path: path.stat().st_mtime_ns for path in (whole / "two").glob("*-????????????")}
    run(load_study(whole / "two.yaml"), whole, hub)
    assert study_bytes(whole) == before
    assert times == {path: path.stat().st_mtime_ns for path in (whole / "two").glob("*-????????????")}


def test_two_processes_give_the_bytes_of_one(whole: Path, hub: Path, tmp_path: Path) -> None:
    outcome = run(load_study(save_study(tmp_path)), tmp_path, hub, jobs=2)
    assert not outcome.failures
    assert (tmp_path / "two" / "log-worker-2.txt").exists()
    assert study_bytes(tmp_path) == study_bytes(whole)


def test_the_table_is_made_of_the_seeds_scores(whole: Path) -> None:
    """Means and deviations are recomputed from the artifacts, which the index names."""
    index = json.loads((whole / "two" / "study.json").read_text())
    rows = {row["cell"]: row for row in table(whole, "table.csv")}
    for cell in ("hinge", "sigmoid"):
        means = []
        for seed in (0, 1):
            entry = index["runs"][f"{cell}-seed-{seed}"]
            assert entry["fields"] == {"tune.loss": cell, "tune.seed": seed}
            scores = (whole / "two" / entry["artifacts"]["evaluate tuned"] / "records.jsonl").read_text().splitlines()
            rewards = [json.loads(line)["reward"] for line in scores]
            means.append(sum(rewards) / len(rewards))
        assert float(rows[cell]["reward"]) == pytest.approx(sum(means) / 2)
        assert float(rows[cell]["reward_std"]) == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
        assert rows[cell]["seeds"] == "2" and rows[cell]["reference"] == "untuned"
    assert rows["untuned"]["seeds"] == "1" and rows["untuned"]["reward_std"] == ""
    assert float(rows["untuned"]["below"]) == 0.5
    found = {(row["cell"], row["other"]): row for row in table(whole, "comparisons.csv") if row["measure"] == "reward"}
    change = found["hinge", "sigmoid"]
    assert float(change["difference"]) == pytest.approx(
        float(rows["hinge"]["reward"]) - float(rows["sigmoid"]["reward"])
    )
    assert float(change["low"]) <= float(change["difference"]) <= float(change["high"])


def test_each_tuned_model_has_a_name_that_stays(whole: Path) -> None:
    models = whole / "two" / "models"
    names = {f"{loss}-seed-{seed}" for loss in ("hinge", "sigmoid") for seed in (0, 1)}
    assert {path.name for path in models.iterdir()} == names
    assert (models / "hinge-seed-1" / "model.safetensors").is_file()


def test_training_seeds_change_training_alone(whole: Path) -> None:
    """Both seeds answer the same prompts, with the same random numbers, from models that differ."""
    index = json.loads((whole / "two" / "study.json").read_text())["runs"]
    paths = [whole / "two" / index[f"hinge-seed-{seed}"]["artifacts"]["guide tuned"] for seed in (0, 1)]
    first, second = ([json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()] for path in paths)
    assert [each["prompt"] for each in first] == [each["prompt"] for each in second] and first != second


def command(monkeypatch: pytest.MonkeyPatch, hub: Path, folder: Path, *more: str) -> int:
    """Run `trimtab study` on `two.yaml` in `folder`; gives its exit code."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(hub.parent / "cache"))
    options = ["--quiet", "--runs", str(folder), "--path-map", str(hub), "--threads", "1", *more]
    monkeypatch.setattr("sys.argv", ["trimtab", "study", str(folder / "two.yaml"), *options])
    try:
        cli.main()
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code
    return 0


def test_a_cell_that_fails_leaves_the_others_finished(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = preference.tune

    def diverging(train: Any, validation: Any, model: Any, tokenizer: Any, config: TuneConfig, *others: Any) -> Any:
        if config.lora is not None and config.lora.top_layers == 2:
            raise RunError("the loss is NaN: lower tune.learning_rate")
        return tune(train, validation, model, tokenizer, config, *others)

    monkeypatch.setattr(preference, "tune", diverging)
    save_study(tmp_path, {"tune.lora.top_layers": [2, 1]}, overrides={"evaluate.kl_samples": 0})
    assert command(monkeypatch, hub, tmp_path) == 1
    output = capsys.readouterr()
    why = "tune: the loss is NaN: lower tune.learning_rate"
    assert (
        output.err.startswith(f"trimtab: 1 of 2 runs failed, such as 2 ({why}): ") and len(output.err.splitlines()) == 1
    )
    assert f"2 failed: {why}" in output.out
    assert [row["cell"] for row in table(tmp_path, "table.csv")] == ["untuned", "1"]
    page = (tmp_path / "two" / "report" / "report.html").read_text(encoding="utf-8")
    assert why in page and why in (tmp_path / "two" / "report" / "table.md").read_text()


def test_a_cell_whose_function_fails_is_not_tuned(hub: Path, tmp_path: Path) -> None:
    """It would be called for the first time after the tuning, since the pairs exist."""
    (tmp_path / "mine.py").write_text(
        "def good(texts):\n    return list(map(len, texts))\n\n\ndef bad(texts):\n    return texts[7]\n"
    )
    kinds = {
        name: {"reward": {"by": f"{tmp_path}/mine.py:{name}"}, "tune.beta": beta}
        for name, beta in (("good", 0.1), ("bad", 1.0))
    }
    training = {"snippet_words": [4, 10], "batch_size": 8, "frozen_layers": 1}
    kinds["trained"] = {"reward": {"max_length": 64, "training": training}}  # it needs data, which the others do not
    changes = {"data.preferences": "ZHZisZZ/imdb_preference", "evaluate.kl_samples": 0}
    outcome = run(load_study(save_study(tmp_path, {"kind": kinds}, overrides=changes)), tmp_path, hub)
    assert [*outcome.failures] == ["bad"]
    assert outcome.failures["bad"].startswith("trial reward: the reward function ")
    assert made(tmp_path)["tune"] == made(tmp_path)["trial"] == 1


def test_a_dry_run_leaves_nothing_and_says_what_is_missing(
    hub: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    save_study(tmp_path)
    assert command(monkeypatch, hub, tmp_path, "--dry-run") == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "two").exists()
    assert "two: 2 cells, 4 runs" in text
    assert all(
        part in text for part in ("2 tune", "guide untuned", "2 guide tuned", "evaluate untuned", "2 evaluate tuned")
    )
    assert command(monkeypatch, hub, whole, "--dry-run") == 0
    assert capsys.readouterr().out.count("nothing") == 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--jobs", "0"], "--jobs is 0: give at least 1"),
        (["--threads", "-1"], "--threads is -1: give at least 1"),
        (["--set", "small.name=nobody/nothing"], "model 'nobody/nothing' is no local path"),
        (["--set", "tune.betta=1"], "tune.betta is unknown: did you mean beta?"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(
    options: list[str], line: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save_study(tmp_path)
    assert command(monkeypatch, hub, tmp_path, *options) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and len(error.splitlines()) == 1
    assert not list((tmp_path / "two").glob("*-????????????"))


def test_decoders_are_studied_in_the_same_way(hub: Path, tmp_path: Path) -> None:
    """A grid over a decoder's setting needs no tuning here, and is measured against the same model unguided."""
    decoders = [{"model": "untuned"}, {"name": "picked", "model": "untuned", "successors": 2, "value": "reward"}]
    guide = {**EXPERIMENT["guide"], "decoders": decoders}
    experiment = {**EXPERIMENT, "guide": guide, "evaluate": {"bootstrap": 100}}
    save_study(tmp_path, {"guide.decoders.1.successors": [2, 4], "seed": [0, 1]}, experiment=experiment)
    outcome = run(load_study(tmp_path / "two.yaml"), tmp_path, hub)
    assert not outcome.failures and "tune" not in made(tmp_path)
    assert [(row.name, row.reference, row.seeds) for row in outcome.rows] == [
        ("untuned", None, ("seed-0", "seed-1")),
        ("2", "untuned", ("seed-0", "seed-1")),
        ("4", "untuned", ("seed-0", "seed-1")),
    ]
    assert outcome.rows[2].gains["reward"].mean > 0


def test_a_worker_that_dies_costs_nothing(
    whole: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, killed = local._ProcessWorker.submit, list[str]()

    def kill_once(worker: Any, fn: Any, work: Work) -> Any:  # a study's workers never rest
        future = submit(worker, fn, work)
        if work.step == "tune" and not killed:
            killed.append(work.step)
            worker._process.kill()
        return future

    monkeypatch.setattr(local._ProcessWorker, "submit", kill_once)
    assert not run(load_study(save_study(tmp_path)), tmp_path, hub, jobs=2).failures
    assert killed and study_bytes(tmp_path) == study_bytes(whole)


TINY = [
    "reward.training=null", "reward.model=lvwerra/distilbert-imdb", "reward.positive_label=POSITIVE", "judge=sentiment",
    "reward.max_length=128", "data.reward_reviews=24", "data.reward_heldout=8", "data.judge_reviews=16",
    "data.sft_reviews=12", "data.sft_heldout=4", "data.tuning_prompts=8", "sft.max_length=24", "sft.lora.top_layers=1",
    "tune.lora.top_layers=1", "synthesize.max_new_tokens=8", "guide.max_new_tokens=8", "guide.unprompted=8",
    "evaluate.bootstrap=100",
]  # fmt: skip


def test_the_smoke_study_runs_on_tiny_models(hub: Path, tmp_path: Path) -> None:
    study = load_study(cli.experiment_file("slic-smoke"), TINY, cli.experiment_file)
    outcome = run(study, tmp_path, hub)
    assert not outcome.failures and [row.name for row in outcome.rows] == ["untuned", "hinge", "sigmoid"]
    assert {"reward", "diversity", "below", "judge", "kl", "fluency"} <= set(outcome.rows[1].values)
    assert len(list((tmp_path / "slic-smoke").glob("sft-*"))) == 1
    assert len(list((tmp_path / "slic-smoke").glob("synthesize-*"))) == 2


@pytest.mark.real
@pytest.mark.xdist_group("real")
def test_the_smoke_study_runs_on_the_embedded_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", "study", "slic-smoke", "--quiet", "--runs", str(tmp_path)])
    cli.main()
    report = tmp_path / "slic-smoke" / "report"
    with (report / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == ["untuned", "hinge", "sigmoid"]
    assert all(3 < float(row["diversity"]) < 9 and -6 < float(row["fluency"]) < 0 for row in rows)
    assert "slic-smoke" in (report / "report.html").read_text(encoding="utf-8")


def test_equal_decoders_of_two_names_have_a_row_each(hub: Path, tmp_path: Path) -> None:
    """They share their texts, and the divergence of these; the scores of each are its own. So in a run."""
    decoders = [*EXPERIMENT["guide"]["decoders"], {"model": "tuned", "name": "again"}]
    equal = {**EXPERIMENT, "guide": {**EXPERIMENT["guide"], "decoders": decoders}}
    study = load_study(save_study(tmp_path, {"tune.loss": ["hinge"]}, experiment=equal))
    outcome = run(study, tmp_path, hub)
    assert not outcome.failures
    untuned, tuned, again = outcome.rows
    assert [untuned.name, tuned.name, again.name] == ["untuned", "hinge-tuned", "hinge-again"]
    assert tuned.values == again.values and "kl" in again.values
    assert made(tmp_path)["guide"] == 2 and made(tmp_path)["evaluate"] == 3

    with watching(quiet=True) as watch:
        line = run_steps(Experiment.model_validate({"name": "one", **equal}), tmp_path, assets(hub), watch)
    assert [row.decoder for row in line.report] == ["untuned", "tuned", "again"]
    first, second = (read_decoded(f"{tmp_path}/one:{name}") for name in ("tuned", "again"))
    assert first.judged() == second.judged() and first.answers == second.answers
