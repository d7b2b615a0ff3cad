"""Prompts whose numbers are none, or that are too long, are set aside: named, counted, and without a trace in any other
prompt's numbers."""

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from bad_input.world import World, command, trimtab
from tiny import llama, tokenizer
from tiny_hub import save_causal_lm
from trimtab import FunctionReward
from trimtab.config.experiment import Experiment
from trimtab.config.search import SamplingConfig
from trimtab.evaluation.coverage import set_aside
from trimtab.evaluation.evaluate import Cost, model_names, summarise
from trimtab.evaluation.scoring import score_decoder
from trimtab.models.cached_model import CachedModel
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Generation, Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.value import ImplicitValue, RewardValue

POISON = "😀"
PROMPTS = [Prompt("p0", "I really"), Prompt("p1", f"Film {POISON}"), Prompt("p2", "This was the worst film that")]
SEARCHES = [Search(1, 1, None, 12), Search(1, 4, None, 12, keep=4), Search(2, 3, 4, 12)]


@torch.no_grad()
def poison(model: LlamaForCausalLM, size: int, *, broken: bool) -> LlamaForCausalLM:
    """Its numbers are NaN, if broken, wherever the text holds the poison; the model itself never writes it."""
    token = tokenizer(size).encode(POISON, add_special_tokens=False)[0]
    model.lm_head.weight[token] = 0  # a middling logit, far below the top ones
    if broken:
        model.model.embed_tokens.weight[token] = torch.nan
    return model


def of(seed: int, *, broken: bool = False) -> CachedModel:
    return CachedModel(poison(llama(seed), 320, broken=broken), Vocabulary(tokenizer(320)))


def found(search: Search, prompts: Sequence[Prompt], base, guide) -> dict[str, list[Hypothesis]]:
    proposer = LanguageModelProposer(base, SamplingConfig(temperature=1.0, top_k=20), seed=3)
    groups = search.run(prompts, proposer, guide(base) if search.candidates > 1 else None)
    return {prompt.id: group for prompt, group in zip(prompts, groups, strict=True)}


def _implicit(base) -> ImplicitValue:
    return ImplicitValue(of(7), of(8), base)


@pytest.mark.parametrize("search", SEARCHES, ids=["base", "best-of-4", "cbs"])
def test_a_prompt_of_nan_logits_is_set_aside_and_its_block_does_not_notice(search: Search) -> None:
    sound = found(search, PROMPTS, of(1), _implicit)
    broken = found(search, PROMPTS, of(1, broken=True), _implicit)
    (failed,) = broken["p1"]
    assert (failed.finish, failed.token_ids, failed.text) == ("failed", [], "")
    assert all(each.finish != "failed" for each in sound["p1"])
    for name in ("p0", "p2"):
        assert [each.token_ids for each in broken[name]] == [each.token_ids for each in sound[name]]
        assert [each.text for each in broken[name]] == [each.text for each in sound[name]]
        assert [each.value for each in broken[name]] == pytest.approx([each.value for each in sound[name]], abs=1e-9)


@pytest.mark.parametrize("search", SEARCHES[1:], ids=["best-of-4", "cbs"])
def test_a_guide_that_gives_nan_sets_the_prompt_aside_too(search: Search) -> None:
    base = of(1)
    sound = found(search, PROMPTS, base, _implicit)
    broken = found(search, PROMPTS, base, lambda model: ImplicitValue(of(7, broken=True), of(8), model))
    assert [each.finish for each in broken["p1"]] == ["unvalued"]
    assert [each.token_ids for each in broken["p2"]] == [each.token_ids for each in sound["p2"]]


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_a_reward_that_guides_and_gives_no_number_sets_the_prompt_aside(nothing: float) -> None:
    def lengths(texts: Sequence[str]) -> list[float]:
        return [nothing if POISON in text else float(len(text)) for text in texts]

    broken = found(Search(2, 2, 4, 8), PROMPTS, of(1), lambda model: RewardValue(FunctionReward(lengths)))
    assert [each.finish for each in broken["p1"]] == ["unrewarded"]
    assert all(math.isfinite(each.value) for name in ("p0", "p2") for each in broken[name])


EXPERIMENT = Experiment.model_validate(
    {"name": "demo", "guide": {"decoders": [{}, {"successors": 2}]}, "evaluate": {"bootstrap": 100}}
)


def rows_of(reward: Callable[[str], float], failed: Sequence[str] = ()):
    """The table of two decoders on six prompts, and what was set aside, by one reward function."""
    generations = {
        name: [
            Generation(f"p{n}", "I", 0, [1], [] if f"p{n}" in failed and place else [2, 3],
                       "" if f"p{n}" in failed and place else f" film {n}{'!' * place}",
                       "failed" if f"p{n}" in failed and place else "length")
            for n in range(6)
        ]
        for place, name in enumerate(("base", "bon-2"))
    }  # fmt: skip
    gold = FunctionReward(lambda texts: [reward(text) for text in texts])
    judge = FunctionReward(lambda texts: [1.0] * len(texts))
    scores = {
        name: score_decoder(name, each, gold, judge, lambda some: ([-1.0] * len(some), [2] * len(some)))
        for name, each in generations.items()
    }
    costs = {name: Cost(1.0, 1.0) for name in scores}
    settings = EXPERIMENT.guide, EXPERIMENT.evaluate, EXPERIMENT.seed, model_names(EXPERIMENT.small, EXPERIMENT.base)
    rows = summarise(*settings, scores, generations, lambda text: list(text.encode()), costs)
    aside = [each for name in scores for each in set_aside(name, generations[name], scores[name])]
    return {row.decoder: row for row in rows}, aside


def test_failed_prompts_leave_both_sides_of_a_gain_and_are_counted_and_named() -> None:
    rows, aside = rows_of(len, failed=["p2"])
    assert (rows["base"].prompts, rows["base"].left_out) == (6, 0)
    assert (rows["bon-2"].prompts, rows["bon-2"].set_aside, rows["bon-2"].left_out) == (5, 1, 0)
    assert rows["bon-2"].gain == 1.0
    assert [(each.decoder, each.prompt_id) for each in aside] == [("bon-2", "p2")]
    assert aside[0].why == "a model's logits for it are not finite numbers"


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_never_enters_a_mean(nothing: float) -> None:
    rows, aside = rows_of(lambda text: nothing if "3" in text else 2.0)
    assert [row.reward for row in rows.values()] == [2.0, 2.0]
    assert [row.left_out for row in rows.values()] == [1, 1]
    assert [(each.decoder, each.why) for each in aside] == [
        (name, f"its reward is {nothing}") for name in ("base", "bon-2")
    ]


def test_a_run_goes_on_past_a_prompt_of_nan_and_says_so_everywhere(world: World) -> None:
    """The large model gives NaN for one of four test prompts: the run ends well, and names it on the terminal, in the
    artifact and on the page; what it wrote to the others is what the sound model wrote."""
    rows = [{"prompt": f"Film {number}"} for number in range(3)]
    preferences = f"data.preferences={world.pairs(*rows, {'prompt': f'Film {POISON}'}, *rows)}"
    folder = save_causal_lm(world.bad / "broken", poison(llama(4, 300), 300, broken=True), 300)
    decoders = "guide.decoders=[{}, {successors: 2}]"
    said = command(world, "run", preferences, f"large.name={folder}", decoders, runs=world.bad / "runs")
    assert said.code == 0, said.err
    assert "base: prompt test-00003 is set aside, a model's logits for it are not finite numbers" in said.out
    assert "2 responses without finite logits and scores left out" in " ".join(said.out.split())
    run = world.bad / "runs" / "quickstart"
    warned = "WARNING prompt test-00003 is set aside: a model's logits for it are not finite numbers"
    assert (run / "log.txt").read_text(encoding="utf-8").count(warned) == 2
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    said_there = "bon-2: 1 prompt set aside, since a model or a reward gave no finite number for it (test-00003)."
    assert said_there in html.unescape(page)
    files = [file.read_text(encoding="utf-8") for file in run.glob("evaluate-*/set_aside.jsonl")]
    assert sorted(json.loads(text)["decoder"] for text in files) == ["base", "bon-2"]

    sound = save_causal_lm(world.bad / "sound", poison(llama(4, 300), 300, broken=False), 300)
    again = command(world, "guide", preferences, f"large.name={sound}", decoders, runs=world.bad / "sound-runs")
    assert again.code == 0, again.err
    texts = []
    for runs in ("runs", "sound-runs"):
        lines = [line for file in sorted((world.bad / runs).glob("quickstart/guide-*/records.jsonl"))
                 for line in file.read_text(encoding="utf-8").splitlines()]  # fmt: skip
        texts.append(sorted(line for line in lines if json.loads(line)["prompt_id"] != "test-00003"))
    assert [json.loads(line)["token_ids"] for line in texts[0]] == [json.loads(line)["token_ids"] for line in texts[1]]


def test_samples_without_a_reward_are_counted_and_make_no_pair(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimtab.rewards.model_reward import ModelReward

    sound = ModelReward.score

    def moody(self, prompts, responses):
        scores = sound(self, prompts, responses)
        return [math.nan if number % 7 == 3 else score for number, score in enumerate(scores)]

    monkeypatch.setattr(ModelReward, "score", moody)
    said = command(world, "pairs", "synthesize.samples=6", runs=world.bad / "runs")
    assert said.code == 0, said.err
    run = world.bad / "runs" / "quickstart"
    samples = [json.loads(line) for file in run.glob("synthesize-*/records.jsonl") for line in file.open()]
    lost = sum(math.isnan(sample["reward"]) for sample in samples)
    (folder,) = run.glob("pairs-*")
    assert json.loads((folder / "summary.json").read_text())["responses_set_aside"] == lost > 0
    pairs = [json.loads(line) for line in (folder / "records.jsonl").open()]
    assert pairs and all(math.isfinite(reward) for pair in pairs for reward in pair["rewards"])


@pytest.mark.parametrize("prompt", [POISON, "film " * 20, "\ufeffFilm", "e\u0301\u202e\x00"], ids=ascii)
def test_odd_prompts_are_prompts(world: World, prompt: str) -> None:
    """One emoji, a byte-order mark, combining, right-to-left and null characters: they run like any other."""
    rows = world.pairs(*[{"prompt": prompt}] * 8)
    more = (f"data.preferences={rows}", "data.test_prompts=1", "tune.max_length=64")
    assert command(world, "guide", *more, runs=world.bad / "runs").code == 0


def test_empty_prompts_begin_with_the_configured_token_in_training_and_in_decoding(world: World) -> None:
    rows = world.pairs(*[{"prompt": ""}] * 8)
    more = (f"data.preferences={rows}", "data.test_prompts=1", "tune.max_length=64", "small.start_token=<end>")
    decoders = "guide.decoders=[{model: untuned}]"
    assert command(world, "guide", *more, decoders, runs=world.bad / "runs").code == 0
    (folder,) = (world.bad / "runs" / "quickstart").glob("guide-*")
    (record,) = map(json.loads, (folder / "records.jsonl").open())
    assert record["prompt_ids"] == [tokenizer().eos_token_id]


EVERY_DECODER = (
    "guide.decoders=[{}, {successors: 2}, {best_of: bon-2}, {width: 2, successors: 2, chunk: 3}, {model: untuned}, "
    "{model: tuned}, {model: untuned, beta: 1.0, n_best: 1}]"
)
LONG = "film " * 2000


def rows_in(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((run / "report" / "table.csv").read_text(encoding="utf-8"))))


def test_a_run_goes_on_past_a_test_prompt_that_is_too_long_and_says_so_everywhere(world: World) -> None:
    """Under every kind of decoder, with fluency and divergence: it counts for none of them."""
    world.pairs(*[{"prompt": f"Film {number}"} for number in range(8)])
    world.pairs(*[{"prompt": f"Film {number}"} for number in range(3)], {"prompt": LONG}, splits=("test",))
    chosen = f"data.preferences={world.bad / 'pairs'}"
    runs = world.bad / "runs"
    said = command(world, "run", chosen, EVERY_DECODER, "evaluate.kl_samples=4", runs=runs)
    assert said.code == 0, said.err
    run = runs / "quickstart"
    rows = rows_in(run)
    assert len(rows) == 7
    assert {(row["prompts"], row["set_aside"], row["left_out"]) for row in rows} == {("3", "1", "0")}
    assert (
        "cbs-2-2-3: prompt test-00003 is set aside, it leaves no room for a response in a model's context" in said.out
    )
    warned = (
        r"WARNING prompt test-00003 is set aside: a prompt of \d+ tokens and 6 new ones exceed \w+'s context of 256"
    )
    assert len(re.findall(warned, (run / "log.txt").read_text(encoding="utf-8"))) == 6
    page = html.unescape((run / "report" / "report.html").read_text(encoding="utf-8"))
    assert "bon-2: 1 prompt set aside, too long for the context of a model (test-00003)." in page
    assert all(
        json.loads(line)["prompt_id"] == "test-00003"
        for file in run.glob("evaluate-*/set_aside.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    )
    compared = trimtab(world.monkeypatch, "compare", f"{run}:bon-2", f"{run}:base", "--json")
    assert compared.code == 0 and json.loads(compared.out)["prompts"] == 3
    exported = trimtab(
        world.monkeypatch, "export", str(run), "--decoder", "bon-2", "--output", str(world.bad / "outputs.json")
    )
    assert exported.code == 0, exported.err
    assert [bool(each["output"]) for each in json.loads((world.bad / "outputs.json").read_text())].count(False) <= 1


def test_too_long_for_the_small_model_alone_counts_for_no_decoder(world: World) -> None:
    """The large model has room for it, and its unguided mean is over the same prompts as the others'."""
    roomy = llama(4, 300)
    roomy.config.max_position_embeddings = 8000
    folder = save_causal_lm(world.bad / "roomy", roomy, 300)
    world.pairs(*[{"prompt": f"Film {number}"} for number in range(8)])
    world.pairs(*[{"prompt": f"Film {number}"} for number in range(3)], {"prompt": LONG}, splits=("test",))
    chosen = f"data.preferences={world.bad / 'pairs'}"
    decoders = "guide.decoders=[{}, {successors: 2}, {model: tuned}]"
    said = command(world, "run", chosen, f"large.name={folder}", decoders, runs=world.bad / "runs")
    assert said.code == 0, said.err
    rows = rows_in(world.bad / "runs" / "quickstart")
    assert {(row["prompts"], row["set_aside"], row["left_out"]) for row in rows} == {("3", "1", "0")}
    assert "base: prompt test-00003 is set aside, it is too long for another decoder" in said.out


def test_prompts_to_tune_on_that_are_too_long_make_no_pairs(world: World) -> None:
    prompts = [f"Film {number}" for number in range(12)] + [f"{LONG} {number}" for number in range(4)]
    file = world.write("prompts.jsonl", "".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    said = command(world, "run", f"data.instructions={file}", "guide.decoders=[{}]", runs=world.bad / "runs")
    assert said.code == 0, said.err
    run = world.bad / "runs" / "quickstart"
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert log.count("is set aside: a prompt of") == 4
    (row,) = rows_in(run)
    assert int(row["set_aside"]) == log.count("prompt test-") and int(row["prompts"]) + int(row["set_aside"]) == 4
    made = [json.loads(line) for file in run.glob("pairs-*/records.jsonl") for line in file.read_text().splitlines()]
    assert made and not any(LONG in each["prompt"] for each in made)


def test_nothing_but_prompts_that_are_too_long_is_one_line(world: World) -> None:
    file = world.write("prompts.jsonl", "".join(json.dumps({"prompt": f"{LONG} {n}"}) + "\n" for n in range(16)))
    said = command(world, "synthesize", f"data.instructions={file}", runs=world.bad / "runs")
    assert said.code == 2 and said.err.count("\n") == 1
    assert "exceed untuned's context of 256: shorten the prompt or lower max_new_tokens" in said.err
    said = command(world, "run", "guide.unprompted=4", "guide.max_new_tokens=300", runs=world.bad / "more")
    assert said.code == 2 and "exceed large's context of 256" in said.err
