"""The whole line on tiny random models behind a path map: both experiments, resume, what follows from what."""

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from finished import Finished, run
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.preferences.dataset import read_dataset, write_dataset
from trimtab.records import Generation, Pair, Prompt, Score
from trimtab.store.blocks import Block, Within, ignored
from trimtab.store.progress import Stage, Watch, watching

COLUMNS = {
    "decoder", "model", "reward", "reward_low", "reward_high", "gain", "gain_low", "gain_high", "headroom",
    "judge_gain", "judge_gain_low", "positive", "diversity", "distinct_2", "fluency", "flops", "seconds",
}  # fmt: skip
SMALL = [
    "reward.max_length=128",
    "data.reward_reviews=40", "data.reward_heldout=20", "data.judge_reviews=20", "data.tuning_prompts=12",
    "data.validation_prompts=4", "data.test_prompts=6", "guide.max_new_tokens=8", "guide.rows=48",
    "synthesize.max_new_tokens=8", "synthesize.rows=32", "evaluate.bootstrap=200", "tune.epochs=1",
    "tune.batch_size=8", "tune.lora.rank=2",
    "tune.lora.top_layers=1",
]  # fmt: skip
READY_REWARD = ["reward.training=null", "reward.model=lvwerra/distilbert-imdb", "reward.positive_label=POSITIVE"]
PLACES = Path(cli.SHIPPED)


@pytest.fixture(scope="module")
def path_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub(tmp_path_factory.mktemp("hub"))


def imdb_cpu(*more: str) -> Experiment:
    return load_experiment(PLACES / "imdb-cpu.yaml", [*SMALL, *READY_REWARD, *more])


def finished(experiment: Experiment, folder: Path, path_map: Path) -> Finished:
    with watching(quiet=True) as watch:
        return run(experiment, folder, Assets(cache=folder / "cache", path_map=path_map), watch)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "report" / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_imdb_gpt2_runs_end_to_end_behind_a_path_map(
    tmp_path: Path, path_map: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write-up's experiment, its models and data replaced by tiny ones of the same names."""
    small = ["tune.lora=null" if entry.startswith("tune.lora") else entry for entry in SMALL]
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "sys.argv",
        [
            "trimtab",
            "run",
            "imdb-gpt2",
            "--runs",
            str(tmp_path),
            "--path-map",
            str(path_map),
            "--set",
            *small,
        ],
    )
    cli.main()
    printed, told = capsys.readouterr()
    assert "cbs-4-4-5" in printed and printed.splitlines()[-1].endswith("report.html")
    assert max(map(len, printed.splitlines()[:-1])) <= 120  # the verdict is broken at words
    # no terminal is here: a line at each stage's start and end, and no bar of a library's
    for words in ("tune: begins\n", "tune: made after 0:0", "evaluate bon-16: begins\n", "report: made after"):
        assert words in told
    assert not re.search(r"\d%|it/s|\r|\x1b", told)
    assert re.search(r"^base: reward .* \(preliminary: 1 of 9 decoders\)$", told, re.MULTILINE)
    rows = table(tmp_path / "imdb-gpt2")
    assert [row["decoder"] for row in rows] == [
        "base", "bon-16", "gold-bon-16", "bon-32", "gold-bon-32", "cbs-4-4-5", "eft-1", "untuned", "tuned",
    ]  # fmt: skip
    assert set(rows[0]) >= COLUMNS
    assert {path.suffix for path in (tmp_path / "imdb-gpt2/report/figures").iterdir()} == {".png", ".svg"}
    assert (tmp_path / "imdb-gpt2/report/table.md").read_text().count("|") > 40


def test_it_gives_the_same_table_twice_but_for_times(tmp_path: Path, path_map: Path) -> None:
    tables = []
    for name in ("one", "two"):
        finished(imdb_cpu(), tmp_path / name, path_map)
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in table(tmp_path / name / "imdb-cpu")])
    assert tables[0] == tables[1]
    by_name = {row["decoder"]: row for row in tables[0]}
    assert list(by_name) == ["base", "bon-16", "gold-bon-16", "cbs-4-4-5", "untuned", "tuned", "eft-0.5", "eft-2"]
    assert float(by_name["gold-bon-16"]["headroom"]) == 1
    assert float(by_name["gold-bon-16"]["reward"]) >= float(by_name["bon-16"]["reward"])
    assert by_name["base"]["gain"] == ""


def test_changing_one_decoder_runs_only_what_follows_from_it(tmp_path: Path, path_map: Path) -> None:
    finished(imdb_cpu(), tmp_path, path_map)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "imdb-cpu").iterdir()}
    finished(imdb_cpu("guide.decoders.3.chunk=4"), tmp_path, path_map)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "imdb-cpu").iterdir()}
    made = sorted(name.partition("-")[0] for name in after if after[name] != before.get(name) and "-" in name)
    assert made == ["evaluate", "guide", "report"]  # the earlier report is kept


def test_a_killed_decoding_goes_on_at_its_open_block(
    tmp_path: Path, path_map: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished(imdb_cpu(), tmp_path / "whole", path_map)
    from trimtab.search.decoders import Decoder

    sound = Decoder.decode
    calls: list[Sequence[Prompt]] = []

    def dies(self: Decoder, prompts: Sequence[Prompt], *, within: Within = ignored) -> Block:
        calls.append(prompts)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sound(self, prompts)

    monkeypatch.setattr(Decoder, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        finished(imdb_cpu(), tmp_path / "killed", path_map)
    resumed = finished(imdb_cpu(), tmp_path / "killed", path_map)
    # base and untuned are one block of 6 prompts, bon-16 and cbs-4-4-5 two of 3; the second of bon-16 is decoded twice
    assert [len(prompts) for prompts in calls] == [6, 6, 3, 3, 3, 3, 3, 6, 6, 6]
    for decoder in whole.experiment.guide.decoders:
        bytes_of = [(line.guided(decoder).folder / "records.jsonl").read_bytes() for line in (whole, resumed)]
        assert bytes_of[0] == bytes_of[1], decoder.name


def test_records_agree_along_the_line(tmp_path: Path, path_map: Path) -> None:
    line = finished(imdb_cpu(), tmp_path, path_map)
    samples = line.samples("tuning").records(Generation)
    assert len(samples) == 12 * line.experiment.synthesize.samples
    assert all(sample.reward is not None and len(sample.token_ids) <= 8 for sample in samples)
    for pair in line.pairs.records(Pair):
        assert pair.rewards[pair.chosen] >= pair.rewards[1 - pair.chosen]
    log = [json.loads(entry) for entry in (line.tuned.folder / "log.jsonl").read_text().splitlines()]
    assert log[0]["rewards/chosen"] == 0 and log[0]["rewards/rejected"] == 0
    bon, gold, base = (
        line.guided(line.experiment.guide.decoder(name)).records(Generation)
        for name in ("bon-16", "gold-bon-16", "base")
    )
    texts = {(each.prompt_id, each.text) for each in bon}
    assert len(bon) == 6 * 16 and len(gold) == 6
    assert all((each.prompt_id, each.text) in texts for each in gold)
    # slot 0 of best-of-N draws the same numbers as plain sampling
    assert all((each.prompt_id, each.text) in texts for each in base)
    scores = line.evaluated(line.experiment.guide.decoder("base")).records(Score)
    assert [score.prompt_id for score in scores] == [each.prompt_id for each in base]


def test_eft_over_a_base_of_another_vocabulary_is_refused_in_one_line(
    tmp_path: Path, path_map: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "sys.argv",
        [
            "trimtab",
            "run",
            "imdb-cpu",
            "--quiet",
            "--runs",
            str(tmp_path),
            "--path-map",
            str(path_map),
            "--set",
            *SMALL,
            *READY_REWARD,
            "guide.decoders.7.model=large",
        ],
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "use best-of-N or CBS" in error


def test_unprompted_samples_start_from_the_named_token(tmp_path: Path, path_map: Path) -> None:
    more = ["synthesize.unprompted=true", "small.start_token=<start>", "pairs.strategy=random", "pairs.total=20"]
    experiment = imdb_cpu(*more, "guide.decoders=[{model: large}]")
    line = finished(experiment, tmp_path, path_map)
    samples = line.samples("tuning").records(Generation)
    assert {(sample.prompt_id, sample.prompt, tuple(sample.prompt_ids)) for sample in samples} == {
        ("unprompted", "", (1,))
    }
    assert len([pair for pair in line.pairs.records(Pair) if pair.split == "train"]) == 20


def test_what_a_name_stands_for_takes_part_in_hashes(tmp_path: Path, path_map: Path) -> None:
    """The same names behind other contents make other artifacts, and fewer test prompts of a data set others, too; a
    copy that was made elsewhere and later is the same."""
    other, copied = tiny_hub(tmp_path / "other"), tiny_hub(tmp_path / "copied")
    pairs = read_dataset(tmp_path / "other/pairs")
    shutil.rmtree(tmp_path / "other/pairs")
    write_dataset(pairs[1:], tmp_path / "other/pairs")
    experiment = load_experiment(PLACES / "imdb-gpt2.yaml", ["data.reward_reviews=40", "data.judge_reviews=20"])
    digests = []
    for place, prompts in ((path_map, 8), (path_map, 4), (other, 8), (copied, 8)):
        data = experiment.data.model_copy(update={"test_prompts": prompts, "reward_heldout": 20, "tuning_prompts": 4})
        assets = Assets(cache=tmp_path / "cache", path_map=place)
        line = Finished.planned(experiment.model_copy(update={"data": data}), tmp_path / "run", assets)
        digests.append((line.pairs.digest, line.guided(experiment.guide.decoder("base")).digest))
    assert len({pairs for pairs, _ in digests}) == 2 and len({base for _, base in digests}) == 3
    assert digests[3] == digests[0]


def test_an_unknown_model_is_named_before_anything_runs(tmp_path: Path, path_map: Path) -> None:
    from trimtab.errors import AssetError

    with pytest.raises(AssetError, match="nobody/nothing"):
        finished(imdb_cpu("large.name=nobody/nothing"), tmp_path, path_map)
    assert not [path for path in (tmp_path / "imdb-cpu").iterdir() if path.is_dir()]


def test_the_table_fills_row_by_row_while_blocks_are_counted_by_tokens(
    tmp_path: Path, path_map: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first number once came when all decoders had decoded, and a block of a quarter of an hour showed nothing."""
    monkeypatch.setattr("trimtab.executors.worker.NOTE_SECONDS", 0.0)
    watch, shown, pages, counted = Watch(), list[str](), dict[str, str](), list[float]()
    page, assets = tmp_path / "imdb-cpu/report/report.html", Assets(cache=tmp_path / "cache", path_map=path_map)

    def listen(stage: Stage) -> None:
        if stage.name == "guide bon-16" and stage.in_progress:
            counted.append(stage.done)
        if stage.name.startswith(("guide", "tune")) and not stage.in_progress and page.is_file():
            found = re.search(r"Preliminary: (\d of \d) decoders", page.read_text())
            pages.setdefault(stage.name, found[1] if found else "the last one")

    watch.listeners.append(listen)
    watch.show = lambda table, line: shown.append(f"{line} {table.row_count}")
    settings = ["evaluate.threshold={deviations: 0}"]  # of the untuned model's rewards, which come second
    run(imdb_cpu(*settings), tmp_path, assets, watch)
    assert [line.split(":")[0] for line in shown] == [
        "base", "untuned", "bon-16", "gold-bon-16", "cbs-4-4-5", "tuned", "eft-0.5", "eft-2"
    ]  # fmt: skip
    assert re.fullmatch(r"base: reward .*, fluency .*, seconds .* \(preliminary: 1 of 8 decoders\) 8", shown[0])
    assert "gain" in shown[2] and "8 of 8" in shown[-1]
    assert pages == {
        "guide untuned": "1 of 8", "tune": "2 of 8", "guide bon-16": "2 of 8", "guide gold-bon-16": "3 of 8",
        "guide cbs-4-4-5": "4 of 8", "guide tuned": "5 of 8", "guide eft-0.5": "6 of 8", "guide eft-2": "7 of 8",
    }  # fmt: skip
    assert "Preliminary" not in page.read_text() and not list(page.parents[1].glob("report-*"))
    assert counted == sorted(counted) and counted[-1] == 6
    assert len({done for done in counted if done % 1}) >= 10  # of 2 blocks of 8 tokens

    # a trace of a finished run shows that it works
    run(imdb_cpu(*settings), tmp_path, assets, watch, until="guide", trace=True)
    traced = watch.stages["guide cbs-4-4-5 (trace)"]
    assert watch.stages["guide cbs-4-4-5"].state == "used again"
    assert (traced.state, traced.counts) == ("made", "6/6") and shown[-1].startswith("eft-2")

    # a run of other settings fills the page anew, and keeps the report so far
    pages.clear()
    run(imdb_cpu(*settings, "guide.decoders.3.chunk=4"), tmp_path, assets, watch)
    assert shown[-1].startswith("cbs-4-4-4") and len(shown) == 9
    assert len(list(page.parents[1].glob("report-*"))) == 1
