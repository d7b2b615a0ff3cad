"""Experiments without prompts and without a large model: trained on reviews first, sampled, tuned and measured."""

import csv
import json
import math
import statistics
from pathlib import Path

import numpy
import pytest

from finished import Finished, run
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.evaluation import metrics
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.records import Generation, Pair, Review, Score
from trimtab.store.progress import watching

PLACES = Path(cli.SHIPPED)
SMALL = [
    "reward.max_length=128", "data.reward_reviews=40", "data.reward_heldout=20", "data.judge_reviews=20",
    "data.tuning_prompts=12", "data.validation_prompts=4", "data.test_prompts=6", "guide.unprompted=20",
    "guide.max_new_tokens=8", "guide.rows=16", "synthesize.max_new_tokens=8", "synthesize.rows=32",
    "evaluate.bootstrap=200", "evaluate.kl_samples=12", "pairs.total=30", "tune.epochs=1", "tune.batch_size=8",
    "tune.warmup=2", "tune.learning_rate=0.01",
]  # fmt: skip
SFT = ["sft={lora: {rank: 2}, max_length: 32, batch_size: 8}", "data.sft_reviews=12", "data.sft_heldout=4"]


@pytest.fixture(scope="module")
def path_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


def slic(*more: str) -> Experiment:
    return load_experiment(PLACES / "slic-gpt2.yaml", [*SMALL, *more])


def finished(experiment: Experiment, folder: Path, path_map: Path, until: str = "report") -> Finished:
    with watching(quiet=True) as watch:
        return run(experiment, folder, Assets(cache=folder / "cache", path_map=path_map), watch, until)


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "report" / "table.csv").open(encoding="utf-8", newline="") as file:
        return {row["decoder"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, path_map: Path) -> Finished:
    """The shipped experiment of the second write-up, its models and data replaced by tiny ones of the same names."""
    return finished(slic(), tmp_path_factory.mktemp("slic"), path_map)


def test_the_write_ups_cell_runs_end_to_end_without_a_large_model(line: Finished) -> None:
    report = line.directory.path / "report"
    rows = table(line.directory.path)
    assert list(rows) == ["untuned", "tuned"]
    assert {path.stem for path in (report / "figures").iterdir()} >= {"before-after", "reward-distributions"}
    page, markdown = ((report / name).read_text(encoding="utf-8") for name in ("report.html", "table.md"))
    for said in (page, markdown):
        assert (
            "fluency (untuned)" in said
            and "below 0.50" in said
            and "since there is no large one" in said
            and "headroom" not in said
        )
    assert "20 responses of each decoder, without a prompt" in page and "(no prompt)" in page


def test_rows_say_what_the_write_up_measures(line: Finished) -> None:
    """Mean and spread of the reward, the share below the threshold, the entropy of whole responses: each anew here."""
    rows = table(line.directory.path)
    encode = line.roles["untuned"].vocabulary.encode_response
    untuned, tuned = line.experiment.guide.decoders
    finite = {each.prompt_id for each in line.evaluated(untuned).records(Score) if math.isfinite(each.reward)}
    for decoder in (untuned, tuned):  # what the untuned model wrote is the tuned one's reference, sample by sample
        row, scores = rows[decoder.name], line.evaluated(decoder).records(Score)
        rewards = [each.reward for each in scores if math.isfinite(each.reward) and each.prompt_id in finite]
        mean = sum(rewards) / len(rewards)
        assert float(row["reward"]) == pytest.approx(mean)
        assert float(row["reward_std"]) == pytest.approx(statistics.stdev(rewards))
        assert float(row["threshold"]) == 0.5
        assert float(row["below"]) == sum(reward < 0.5 for reward in rewards) / len(rewards)
        texts = [generation.text for generation in line.guided(decoder).records(Generation)]
        assert float(row["diversity"]) == pytest.approx(metrics.token_entropy([encode(text) for text in texts]))


def test_responses_begin_with_the_start_token_and_are_not_those_of_synthesis(line: Finished) -> None:
    tokenizer = line.roles["untuned"].vocabulary
    for decoder in line.experiment.guide.decoders:
        written = line.guided(decoder).records(Generation)
        assert len(written) == 20 == len({each.prompt_id for each in written})
        assert {(each.prompt, tuple(each.prompt_ids)) for each in written} == {("", (tokenizer.start_id,))}
    sampled = {tuple(each.token_ids) for each in line.samples("tuning").records(Generation)}
    untuned = [tuple(e.token_ids) for e in line.guided(line.experiment.guide.decoder("untuned")).records(Generation)]
    assert len(set(untuned) & sampled) < 10


def test_divergence_is_the_log_ratio_of_the_tuned_models_own_responses(line: Finished) -> None:
    """Against the two models scored apart; the mean, its interval and the mean a token stand in the tuned row alone."""
    rows = table(line.directory.path)
    responses = line.guided(line.experiment.guide.decoder("tuned")).records(Generation)[:12]
    ids = [each.token_ids for each in responses]
    logs = [sequence_log_probabilities(line.roles[role], [""] * 12, ids) for role in ("tuned", "untuned")]
    ratios = [ours - theirs for ours, theirs in zip(*logs, strict=True)]
    assert float(rows["tuned"]["kl"]) == pytest.approx(sum(ratios) / 12, abs=1e-4)
    assert float(rows["tuned"]["kl_per_token"]) == pytest.approx(sum(ratios) / sum(map(len, ids)), abs=1e-5)
    assert float(rows["tuned"]["kl_low"]) < float(rows["tuned"]["kl"]) < float(rows["tuned"]["kl_high"])
    assert rows["untuned"]["kl"] == ""


def test_validation_pairs_are_as_many_for_a_sample_as_training_pairs(line: Finished) -> None:
    splits = [pair.split for pair in line.pairs.records(Pair)]
    assert (splits.count("train"), splits.count("validation")) == (30, 10)


def test_with_sft_its_model_is_the_untuned_one_of_all_that_follows(
    tmp_path: Path, path_map: Path, line: Finished
) -> None:
    """Samples, the tuned model's reference, both measured models and fluency; the reward and the data stay."""
    trained = finished(slic(*SFT), tmp_path, path_map)
    folder = trained.sft.folder / "model"
    assert trained.roles.config("untuned").name == str(folder)
    assert trained.roles["untuned"].model.config._name_or_path == str(folder)
    assert trained.reward.digest == line.reward.digest
    plain = {each.stage: each.digest for each in (line.samples("tuning"), line.pairs, line.tuned)}
    for other in (trained.samples("tuning"), trained.pairs, trained.tuned):
        assert other.digest != plain[other.stage]
    for decoder in trained.experiment.guide.decoders:
        assert trained.guided(decoder).digest != line.guided(line.experiment.guide.decoder(decoder.name)).digest
        assert trained.sft.digest in trained.evaluated(decoder).made_from["inputs"]
    summary = trained.sft.summary()
    assert summary["reviews"] == 12 and summary["heldout"] == 4
    log = [json.loads(entry) for entry in (trained.tuned.folder / "log.jsonl").read_text().splitlines()]
    assert log[0]["rewards/chosen"] == 0  # the reference is the model that is tuned
    page = (trained.directory.path / "report" / "report.html").read_text(encoding="utf-8")
    assert "first trained on the text of 12 imdb reviews" in page
    other = finished(slic(*SFT, "sft.max_length=16"), tmp_path, path_map, until="sft")
    assert other.sft.digest != trained.sft.digest


def test_sft_reviews_play_no_other_part_and_move_no_other(tmp_path: Path, path_map: Path, line: Finished) -> None:
    data = finished(slic(*SFT), tmp_path, path_map, until="data").data
    taken = {review.id for name in ("sft_train", "sft_heldout") for review in data.records(Review, name)}
    assert len(taken) == 16
    for name in ("reward_train", "reward_heldout", "judge_train"):
        others = data.records(Review, name)
        assert others == line.data.records(Review, name) and not taken & {review.id for review in others}
    assert not (line.data.folder / "sft_train.jsonl").exists()
    for name in ("tuning.jsonl", "validation.jsonl", "test.jsonl"):
        assert (data.folder / name).read_bytes() == (line.data.folder / name).read_bytes()


def test_an_experiment_without_sft_says_so(
    tmp_path: Path, path_map: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["sft", "slic-gpt2", "--quiet", "--runs", str(tmp_path), "--path-map", str(path_map), "--set", *SMALL]
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and len(error.splitlines()) == 1 and "give the experiment a part sft" in error
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments, *SFT])
    cli.main()
    assert "sft: done" in capsys.readouterr().out


def test_a_relative_threshold_is_one_of_the_untuned_models_rewards(
    tmp_path: Path, path_map: Path, line: Finished
) -> None:
    experiment = slic("evaluate.threshold={quantile: 0.25}", "evaluate.kl_samples=0")
    made = finished(experiment, line.directory.path.parent, path_map)
    rows = table(made.directory.path)
    rewards = [score.reward for score in made.evaluated(experiment.guide.decoder("untuned")).records(Score)]
    threshold = float(numpy.quantile(rewards, 0.25))
    assert float(rows["untuned"]["threshold"]) == pytest.approx(threshold, abs=1e-3)
    assert float(rows["untuned"]["below"]) == pytest.approx(statistics.mean(reward < threshold for reward in rewards))
    assert rows["tuned"]["threshold"] == rows["untuned"]["threshold"]
    assert rows["tuned"]["kl"] == ""


@pytest.mark.parametrize("strategy", ["flat", "rarer_wins"])
def test_new_strategies_tune(tmp_path: Path, path_map: Path, strategy: str) -> None:
    pairs = [f"pairs.strategy={strategy}", "pairs.low={deviations: -1}", "pairs.high={deviations: 2}", "pairs.bins=4"]
    line = finished(slic(*pairs), tmp_path, path_map, until="tune")
    assert line.pairs.summary()["pairs"] > 0 and line.tuned.summary()["steps"] > 0
