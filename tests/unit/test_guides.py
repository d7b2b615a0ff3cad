"""Guides by name: what comes with trimtab, what a user adds, and experiments that tune nothing."""

from pathlib import Path

import pytest
import yaml

import finished as pipeline
from small_run import SETTINGS
from tiny import llama
from tiny_hub import save_causal_lm, tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.config.guides import guide_pair, guide_pairs
from trimtab.errors import ConfigurationError, VocabularyError
from trimtab.records import Generation
from trimtab.store.progress import watching

UNREAD = ("tune.", "synthesize.", "pairs.", "checkpoint", "guide.decoders")


@pytest.fixture(autouse=True)
def no_guides_of_my_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.config.guides.platformdirs.user_config_path", lambda name: tmp_path / "config")


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A file of guides with one tiny pair, `mine`."""
    untuned, tuned = (save_causal_lm(tmp_path / name, llama(seed)) for seed, name in ((3, "untuned"), (4, "tuned")))
    file = tmp_path / "guides.yaml"
    shown = {"name": str(untuned), "template": "Review: {prompt}", "dtype": "float32"}
    file.write_text(yaml.safe_dump({"mine": {"untuned": shown, "tuned": {"name": str(tuned), "dtype": "float32"}}}))
    return file


def experiment(file: Path, *more: str) -> Experiment:
    path = file.parent / "experiment.yaml"
    shipped = yaml.safe_load((cli.SHIPPED / "quickstart.yaml").read_text())
    kept = {name: part for name, part in shipped.items() if name not in ("small", "synthesize", "pairs", "tune")}
    path.write_text(yaml.safe_dump({**kept, "guide": {"pair": "mine", "rows": 8, "max_new_tokens": 6}}))
    settings = [each for each in SETTINGS if not each.startswith(UNREAD)]
    decoders = "[{model: large},{model: large, successors: 4},{model: tuned},{model: untuned, beta: 1.0}]"
    return load_experiment(path, [*settings, f"guide.decoders={decoders}", *more], guides=file)


def test_a_pair_by_name_guides_and_nothing_is_tuned(pair: Path, tmp_path: Path) -> None:
    described = experiment(pair)
    assert described.small.name == str(tmp_path / "untuned")
    assert described.guide.tuned is not None and described.guide.tuned.template == "Review: {prompt}"
    assets = Assets(cache=tmp_path / "cache", path_map=tiny_hub(tmp_path / "hub"))
    with watching(quiet=True) as watch:
        line = pipeline.run(described, tmp_path / "runs", assets, watch)
    made = {path.name.rpartition("-")[0] for path in (tmp_path / "runs" / described.name).glob("*-????????????")}
    assert made == {"data", "reward", "judge", "guide", "evaluate"}
    tuned, emulated = (line.guided(described.guide.decoder(name)) for name in ("tuned", "eft-1"))
    # over the untuned model, with weight 1, emulated fine-tuning is the tuned one
    assert [each.token_ids for each in tuned.records(Generation)] == [
        each.token_ids for each in emulated.records(Generation)
    ]
    page = (tmp_path / "runs" / described.name / "report" / "report.html").read_text()
    assert "tuned elsewhere" in page and "nothing was tuned here" in page


def test_another_tuned_model_is_another_run_of_its_decoders_alone(pair: Path, tmp_path: Path) -> None:
    """A tuned model takes part in the hash of what it guides, and of nothing else."""
    assets = Assets(cache=tmp_path / "cache", path_map=tiny_hub(tmp_path / "hub"))
    save_causal_lm(tmp_path / "other", llama(5))
    first = experiment(pair)
    names = yaml.safe_load(pair.read_text())
    names["mine"]["tuned"]["name"] = str(tmp_path / "other")
    pair.write_text(yaml.safe_dump(names))
    digests = []
    for described in (first, experiment(pair)):
        line = pipeline.Finished.planned(described, tmp_path / "runs", assets)
        digests.append({each.name: line.guided(each).digest for each in described.guide.decoders})
    changed = {name for name, digest in digests[0].items() if digests[1][name] != digest}
    assert changed == {"bon-4", "tuned", "eft-1"}


def test_those_that_come_with_trimtab_are_whole() -> None:
    pairs = guide_pairs()
    assert {"zephyr", "starling", "tulu", "quickstart"} <= set(pairs)
    for name, each in pairs.items():
        assert each.tuned.name != each.untuned.name and each.tuned.template == each.untuned.template, name


def test_a_pair_of_ones_own_comes_first_and_an_adapter_needs_no_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "zephyr:\n  untuned: {name: /models/a, template: chat, quantization: 4bit}\n  tuned: {adapter: /models/b}\n"
    )
    found = guide_pair("zephyr", file)
    assert (found.tuned.name, found.tuned.adapter, found.tuned.quantization) == ("/models/a", "/models/b", "4bit")
    assert found.source == file and guide_pair("tulu", file).tuned.name == "allenai/tulu-2-dpo-7b"


def test_the_files_that_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config", "variable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "guides.yaml").write_text(f"{name}: {{untuned: {{name: a}}, tuned: {{name: b}}}}\n")
    assert "config" in guide_pairs()
    monkeypatch.setenv("TRIMTAB_GUIDES", str(tmp_path / "variable" / "guides.yaml"))
    assert "variable" in guide_pairs() and "config" not in guide_pairs()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- a", "is no mapping: write"),
        ("a: [", "cannot be read as YAML"),
        ("a: {untuned: {name: b}}", "a.tuned: it is missing: give it"),
        ("a: {untuned: {name: b}, tuned: {name: c, dtpe: float32}}", "a.tuned.dtpe is unknown: did you mean dtype?"),
        ("a: b", "the guides file .*: a is 'b': give its fields"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "guides.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=line) as caught:
        guide_pairs(tmp_path / "guides.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["guide.pair=zephir"], "guide.pair is 'zephir', which no file of guides names: did you mean zephyr"),
        (["small.name=b"], "guide.pair stands for small and guide.tuned: drop small, or it"),
        (["tune.beta=0.2"], "guide.tuned names a tuned model, so that nothing is tuned: drop tune"),
    ],
)
def test_what_does_not_go_together_is_said(pair: Path, more: list[str], line: str) -> None:
    with pytest.raises(ConfigurationError, match=line):
        experiment(pair, *more)


def test_stages_without_work_and_unlike_vocabularies_are_refused(pair: Path, tmp_path: Path) -> None:
    assets = Assets(cache=tmp_path / "cache", path_map=tiny_hub(tmp_path / "hub"))
    with (
        watching(quiet=True) as watch,
        pytest.raises(ConfigurationError, match="`trimtab tune` has nothing to make: run guide"),
    ):
        pipeline.run(experiment(pair), tmp_path / "runs", assets, watch, "tune")
    save_causal_lm(tmp_path / "tuned", llama(4, 300), 300)
    with watching(quiet=True) as watch, pytest.raises(VocabularyError, match="give as small the untuned model"):
        pipeline.run(experiment(pair), tmp_path / "runs", assets, watch)


def test_emulation_over_another_vocabulary_is_told_what_to_use_instead(pair: Path, tmp_path: Path) -> None:
    for name, seed in (("untuned", 3), ("tuned", 4)):
        save_causal_lm(tmp_path / name, llama(seed, 310), 310)
    assets = Assets(cache=tmp_path / "cache", path_map=tiny_hub(tmp_path / "hub"))
    described = experiment(pair, "guide.decoders=[{model: large, beta: 0.5}]")
    with watching(quiet=True) as watch, pytest.raises(VocabularyError, match="use best-of-N or CBS, which work across"):
        pipeline.run(described, tmp_path / "runs", assets, watch)


def test_guides_are_listed(pair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setattr("sys.argv", ["trimtab", "guides", "--guides", str(pair)])
    cli.main()
    printed = capsys.readouterr().out
    assert "HuggingFaceH4/zephyr-7b-beta" in printed and "mine" in printed
