"""Every option of the search through an experiment file: decoded, marked where it must be, traced and shown."""

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console
from test_pipeline import PLACES, READY_REWARD, SMALL

from carried import carry_out_steps
from finished import Finished, run
from tiny_hub import tiny_hub
from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.config.file import load_experiment
from trimtab.errors import ConfigurationError, DataError
from trimtab.models.language_model import sequence_log_probabilities
from trimtab.records import Generation
from trimtab.report.search_tree import search_tree
from trimtab.search.trace import Node, read_traces
from trimtab.store.progress import watching

FUNCTION = "def cheerful(texts):\n    return [text.count('e') for text in texts]\n"
DECODERS = """[
  {model: large},
  {width: 2, successors: 2, chunk: 3, value: reward},
  {successors: 4, value: [{by: implicit, per_token: true}, {by: 'mine_for_search.py:cheerful', weight: 0.5}]},
  {width: 2, successors: 2, chunk: 3, value: {by: 'mine_for_search.py:cheerful', steps: min}},
  {width: 4, successors: 2, chunk: 2, groups: 2, duplicates: drop, n_best: 3},
  {width: 2, successors: 2, chunk: 4, chunk_ends: [e], pool: 2},
  {successors: 8, reject: {share: 0.5, at: [2, 4]}, vote: '(?s)^..'},
  {budget: BUDGET, n_best: 2},
  {model: untuned, width: 2, successors: 2, chunk: 3,
   emulate: [{weight: 0.5}, {weight: 0.25, tuned: {name: google/gemma-3-270m, template: 'Film: {prompt}'},
                             untuned: {name: HuggingFaceTB/SmolLM2-135M-Instruct}}]},
]"""
NAMES = [
    "base", "cbs-2-2-3-by-reward", "bon-4-by-implicit-per-token-0.5-cheerful", "cbs-2-2-3-by-cheerful-min-of-steps",
    "cbs-4-2-2-groups-2-distinct", "cbs-2-2-4-pool-2-delimited", "bon-8-rejecting-vote", "budget-2e07",
    "eft-0.5-0.25-cbs-2-2-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    path_map = tiny_hub(folder / "hub").read_text(encoding="utf-8").splitlines()
    # an experiment whose models all have one vocabulary, which emulated fine-tuning asks for
    gemma = next(line for line in path_map if line.startswith("google/gemma"))
    smol = next(line for line in path_map if line.startswith("HuggingFaceTB"))
    other = next(line for line in path_map if line.startswith("openai-community/gpt2-xl"))
    text = "\n".join(path_map).replace(gemma, f"google/gemma-3-270m:{other.partition(':')[2]}")
    assert smol in text
    (folder / "paths.yaml").write_text(text + "\n", encoding="utf-8")
    (folder / "mine_for_search.py").write_text(FUNCTION, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _beside_the_function(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def experiment(budget: float = 2e7) -> Experiment:
    decoders = DECODERS.replace("\n", " ").replace("BUDGET", str(budget))
    return load_experiment(PLACES / "quickstart.yaml", [*SMALL, *READY_REWARD, f"guide.decoders={decoders}"])


def made(place: Path, *, trace: bool, until: str = "report") -> Finished:
    with watching(quiet=True) as watch, pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assets = Assets(cache=place / "cache", path_map=place / "paths.yaml")
        return run(experiment(), place / "runs", assets, watch, until, trace=trace)


@pytest.fixture(scope="module")
def line(place: Path) -> Finished:
    return made(place, trace=True)


def generations(line: Finished, name: str) -> list[Generation]:
    return line.guided(line.experiment.guide.decoder(name)).records(Generation)


def test_decoders_name_themselves_by_their_options() -> None:
    assert [decoder.name for decoder in experiment().guide.decoders] == NAMES


def test_each_answers_every_prompt_and_keeps_as_many_as_it_says(line: Finished) -> None:
    kept = {name: len(generations(line, name)) for name in NAMES}
    assert kept == dict(zip(NAMES, [6, 12, 24, 12, 18, kept[NAMES[5]], 12, 12, 12], strict=True))
    assert 6 <= kept[NAMES[5]] <= 12
    for name in NAMES[1:]:
        values = [each.value for each in generations(line, name)]
        assert all(value is not None for value in values)


def test_the_shipped_comparison_of_options_runs_end_to_end(place: Path) -> None:
    """Each option has its row, with a gain over the base; the budget is one that tiny models can spend."""
    options = load_experiment(
        PLACES / "search-options.yaml", [*SMALL, *READY_REWARD, "guide.decoders.12.budget=2e7", "data.test_prompts=3"]
    )
    assets = Assets(cache=place / "cache", path_map=place / "paths.yaml")
    with watching(quiet=True) as watch:
        run(options, place / "runs", assets, watch)
    with (place / "runs" / "search-options" / "report" / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["decoder"]: row for row in csv.DictReader(file)}
    assert list(rows) == [decoder.name for decoder in options.guide.decoders]
    assert {name for name, row in rows.items() if not row["gain"]} == {"base", "untuned"}


def test_n_best_has_values_and_log_probabilities(line: Finished) -> None:
    found = generations(line, "cbs-4-2-2-groups-2-distinct")
    logs = sequence_log_probabilities(
        line.roles["large"], [each.prompt for each in found], [each.token_ids for each in found]
    )
    for each, log in zip(found, logs, strict=True):
        assert each.log_probability == pytest.approx(log, abs=1e-4) and each.log_probability < 0
    assert {each.log_probability for each in generations(line, "base")} == {None}


def test_the_gold_reward_as_value_is_what_guided_and_is_marked(line: Finished, place: Path) -> None:
    found = generations(line, "cbs-2-2-3-by-reward")
    rewards = line.gold.score([each.prompt for each in found], [each.text for each in found])
    assert all(abs(each.value - reward) < 1e-3 for each, reward in zip(found, rewards, strict=True))  # type: ignore[operator]
    folder = place / "runs" / "quickstart" / "report"
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        marked = {row["decoder"] for row in csv.DictReader(file) if row["by_gold"] == "True"}
    assert marked == {"cbs-2-2-3-by-reward"}
    for name in ("report.html", "table.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "cbs-2-2-3-by-reward †" in text and "an upper line, not a method" in text
    cost = line.guided(line.experiment.guide.decoder("cbs-2-2-3-by-reward")).summary("cost")
    assert cost["reward"] > 0 and "tuned" not in cost


def test_a_changed_function_makes_its_decoders_anew_and_no_other(line: Finished, place: Path) -> None:
    digests = {name: line.guided(line.experiment.guide.decoder(name)).digest for name in NAMES}
    source = place / "mine_for_search.py"
    source.write_text(FUNCTION.replace("'e'", "'a'"), encoding="utf-8")
    try:
        changed = Finished.planned(line.experiment, line.directory.path, line.assets)
        after = {name: changed.artifact(f"guide {name}").digest for name in NAMES}
    finally:
        source.write_text(FUNCTION, encoding="utf-8")
    assert {name for name in after if after[name] != digests[name]} == {name for name in NAMES if "cheerful" in name}


def test_traces_hold_every_step_and_a_missing_one_is_made_without_touching_records(line: Finished, place: Path) -> None:
    folder = place / "runs" / "quickstart"
    files = {file.name.rpartition("-")[0]: file for file in (folder / "traces").iterdir()}
    assert set(files) == set(NAMES)
    name = "cbs-2-2-3-by-reward"
    trees = read_traces(files[name])
    assert list(trees) == list(dict.fromkeys(each.prompt_id for each in generations(line, name)))
    for each in generations(line, name):
        assert each.text in set(_leaves(trees[each.prompt_id], ""))
        assert len(trees[each.prompt_id].children) == 4
    before = {path: path.read_bytes() for path in folder.glob("guide-*/*") if path.is_file()}
    whole = files[name].read_bytes()
    files[name].unlink()
    made(place, trace=True, until="guide")
    assert files[name].read_bytes() == whole
    assert before == {path: path.read_bytes() for path in folder.glob("guide-*/*") if path.is_file()}


def _leaves(node: Node, text: str) -> list[str]:
    text = text + node.text if node.value is not None else ""
    return [text] if not node.children else [leaf for child in node.children for leaf in _leaves(child, text)]


def test_the_page_unfolds_searches_and_the_terminal_shows_a_tree(
    line: Finished, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (place / "runs" / "quickstart" / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count('<details class="search">') == 4 * (len(NAMES) - 1)  # four examples; base had no choice
    file = next((place / "runs" / "quickstart" / "traces").glob("cbs-2-2-3-by-reward-*"))
    monkeypatch.setattr("sys.argv", ["trimtab", "trace", str(file), "--prompt", "test-00001"])
    cli.main()
    printed = capsys.readouterr().out
    assert "dropped" in printed and "├──" in printed
    monkeypatch.setattr("sys.argv", ["trimtab", "trace", str(file), "--prompt", "nobody"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "has no prompt 'nobody': give one of its 6, such as test-0" in capsys.readouterr().err


def test_what_a_model_wrote_is_no_markup_in_the_tree() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(search_tree(Node("[bold]x", children=[Node("[red]\x1b[31m", 1.0, "eos")])))
    assert "[red]\\x1b[31m" in capture.get() and "[bold]x" in capture.get()


def test_a_trace_that_was_cut_counts_up_to_there_and_a_broken_one_is_named(tmp_path: Path) -> None:
    candidate = {"text": "a", "value": 1.0, "finish": None, "parent": 0, "kept": 0, "held": False}
    step = json.dumps({"prompt_id": "p", "prompt": "P", "step": 0, "candidates": [candidate]})
    (tmp_path / "cut.jsonl").write_text(f'{step}\n{{"prompt_id": "p", "st', encoding="utf-8")
    assert read_traces(tmp_path / "cut.jsonl")["p"].children[0].text == "a"
    (tmp_path / "broken.jsonl").write_text(f"nonsense\n{step}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"broken.jsonl, line 1: no step of a trace"):
        read_traces(tmp_path / "broken.jsonl")
    with pytest.raises(DataError, match=r"absent.jsonl is no trace that can be read"):
        read_traces(tmp_path / "absent.jsonl")


def test_too_small_a_budget_is_named_before_anything_is_decoded(line: Finished, place: Path) -> None:
    poor = experiment(budget=1.0)
    plan = Finished.planned(poor, line.directory.path, line.assets).plan
    (step,) = (step for step in plan.steps if step.name == "guide budget-1")
    with pytest.raises(ConfigurationError, match=r"budget 1 pays for no search: 1 x 2 candidates cost"):
        carry_out_steps(plan, line.assets, [step], experiment=poor)
