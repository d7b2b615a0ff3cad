"""A whole run whose large model is behind an endpoint: the line, the report, a server that goes down, real weights."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from completions_server import Server, serving
from tiny import llama, tokenizer
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.file import load_experiment
from trimtab.config.models import ModelConfig
from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError
from trimtab.models.cached_model import CachedModel
from trimtab.models.roles import load_language_model
from trimtab.models.served_model import CompletionsModel
from trimtab.models.vocabulary import Vocabulary
from trimtab.pipeline.step import files_of
from trimtab.records import Generation, Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.completions_proposer import CompletionsProposer
from trimtab.search.value import ImplicitValue

SETTINGS = [
    "reward.max_length=128", "reward.training=null", "reward.model=lvwerra/distilbert-imdb",
    "reward.positive_label=POSITIVE", "data.reward_reviews=40", "data.reward_heldout=20", "data.judge_reviews=20",
    "data.tuning_prompts=12", "data.validation_prompts=4", "data.test_prompts=6", "guide.max_new_tokens=8",
    "guide.rows=16", "synthesize.max_new_tokens=8", "synthesize.rows=32", "synthesize.samples=4",
    "evaluate.bootstrap=100", "tune.epochs=1", "tune.batch_size=8", "tune.lora.rank=2", "tune.lora.top_layers=1",
    "guide.decoders=[{model: large},{model: large, successors: 8},{best_of: bon-8},"
    "{model: large, width: 2, successors: 2, chunk: 3},{model: untuned},{model: tuned}]",
]  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(CachedModel(llama(4, 300), Vocabulary(tokenizer(300), range(40, 60)))) as server:
        yield server


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    """The command's exit code."""
    if not (folder / "hub").exists():
        tiny_hub(folder / "hub")
    monkeypatch.setenv("TRIMTAB_CACHE", str(folder / "cache"))
    arguments = ["run", "quickstart", "--quiet", "--runs", str(folder), "--path-map", str(folder / "hub/paths.yaml")]
    monkeypatch.setattr("sys.argv", ["trimtab", *arguments, "--set", *SETTINGS, *more])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def endpoint(server: Server, *more: str) -> str:
    return f"large.endpoint={{url: '{server.url}', attempts: 1, timeout: 20, {', '.join(more)}}}"


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "quickstart/report/table.csv").open(newline="") as file:
        return {row["decoder"]: row for row in csv.DictReader(file)}


def texts(folder: Path) -> dict[str, list[str]]:
    """The records of each decoder, by its configuration."""
    found = {}
    for made in (folder / "quickstart").glob("guide-????????????"):
        configuration = json.loads((made / "made_from.json").read_text())["configuration"]
        found[json.dumps(configuration.get("decoder"))] = (made / "records.jsonl").read_text().splitlines()
    return found


def test_a_server_that_goes_down_mid_run_loses_no_finished_block(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2; the same command, the server elsewhere by now, goes on to the same texts."""
    server.dead_after = 9  # one request for each of base's six prompts and of best-of-8's first block of two, one more
    tiny_hub(tmp_path / "hub")
    capsys.readouterr()
    assert command(monkeypatch, tmp_path, endpoint(server)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trimtab: {server.url}/completions does not answer (") and said.count("\n") == 1
    with serving(server.model) as other:
        prices = "prompt_price: 2, completion_price: 8, concurrency: 2"
        assert command(monkeypatch, tmp_path, endpoint(other, prices)) == 0, capsys.readouterr().err
        resumed = len(other.requests)
        assert command(monkeypatch, tmp_path / "whole", endpoint(other, "log_probabilities: true")) == 0
        whole = len([body for body in other.requests[resumed:] if "echo" not in body])
    assert resumed == whole - 8  # what was finished was not asked for again
    assert texts(tmp_path) == texts(tmp_path / "whole")

    rows = table(tmp_path)
    assert rows["base"]["fluency"] == "" and rows["untuned"]["fluency"] == ""
    assert float(rows["base"]["flops"]) == 0 < float(rows["cbs-2-2-3"]["flops"])
    assert 0 < float(rows["base"]["new_tokens"]) <= 8 and float(rows["bon-8"]["reward"])
    page = (tmp_path / "quickstart/report/report.html").read_text()
    assert "google/gemma-3-270m was served by an endpoint, which gave texts alone" in page
    assert "base: 6 requests," in page and "at the prices given" in page
    assert server.url not in page.replace(other.url, "")
    (cbs,) = [lines for name, lines in texts(tmp_path).items() if '"chunk": 3' in name]
    records = [Generation(**json.loads(line)) for line in cbs]
    assert all(each.token_ids == [] and 0 < each.length <= 8 for each in records)

    # the run that was not interrupted was given log-probabilities, and no prices
    fluencies = {name: float(row["fluency"]) for name, row in table(tmp_path / "whole").items()}
    assert all(value < 0 for value in fluencies.values()) and len(set(fluencies.values())) > 2
    page = (tmp_path / "whole/quickstart/report/report.html").read_text()
    assert "its arithmetic is not known" in page and "fluency and its" not in page and "written." in page


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("guide.decoders=[{beta: 1.0}]", "eft-1 needs logits, and large is behind an endpoint, which gives text alone"),
        ("guide.decoders=[{successors: 4, n_best: 2}]", "needs log-probabilities"),
        ("guide.decoders=[{budget: 1.0e12}]", "needs the model's size"),
        ("guide.decoders=[{width: 2, successors: 2, chunk: 9, chunk_ends: ['. ']}]", "needs each token"),
        ("small.endpoint=http://127.0.0.1:1/v1", "small is tuned and guides by its logits"),
        ("large.adapter=somewhere", "the server decides on these, not its client: drop adapter"),
        ("large.endpoint.url=127.0.0.1:8000", "large.endpoint.url is '127.0.0.1:8000': string should match pattern"),
        ("large.endpoint.concurency=3", "did you mean concurrency?"),
        ("large.endpoint.key_variable=sk-123", "large.endpoint.key_variable is 'sk-123'"),
    ],
)
def test_what_needs_more_than_text_is_one_line(change: str, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line.replace("?", r"\?").replace("[", r"\[")):
        load_experiment(
            cli.SHIPPED / "quickstart.yaml", ["guide.decoders=[{}]", "large.endpoint={url: 'http://h/v1'}", change]
        )


def test_a_server_that_moved_is_the_same_model_and_another_name_is_not() -> None:
    """What was decoded stays valid; so hashes leave out where the endpoint is and how it is asked."""
    here, there, other = (
        ModelConfig.model_validate({"name": name, "endpoint": endpoint})
        for name, endpoint in (
            ("a", "http://one/v1"),
            ("a", {"url": "http://two/v1", "concurrency": 2, "prompt_price": 1.0, "key_variable": "KEY"}),
            ("b", "http://one/v1"),
        )
    )
    assert here.hashed() == there.hashed() != other.hashed()
    assert here.hashed()["endpoint"] == {}
    assert ModelConfig(name="a").hashed() == {**here.hashed(), "endpoint": None}
    assert files_of(here, Assets()) == []


@pytest.mark.real
@pytest.mark.xdist_group("real")
def test_gemma_behind_a_server_is_guided_by_smollm2() -> None:
    """The embedded models: text alone, across tokenizers, multi-byte text included, with values of the texts."""
    gemma = load_language_model(ModelConfig(name="google/gemma-3-270m", dtype="float32"), Assets())
    smol = load_language_model(ModelConfig(name="HuggingFaceTB/SmolLM2-135M-Instruct", dtype="float32"), Assets())
    prompts = [Prompt("a", "Le film était très"), Prompt("b", "😀 means")]
    value = ImplicitValue(smol, smol, None)
    with serving(gemma) as server:
        model = CompletionsModel(server.url, "google/gemma-3-270m")
        proposer = CompletionsProposer(model, SamplingConfig(), 0)
        found = Search(2, 2, 4, 8, keep=2).run(prompts, proposer, value)
    assert all(each.text and "\ufffd" not in each.text and each.value == 0 for group in found for each in group)
    assert model.usage.completion_tokens >= 2 * 4 * 4 and len(server.requests) == 2 + 2 * 2
