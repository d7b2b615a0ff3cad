"""Scores and rows: who is compared with whom, on which prompts, and what happens where something is missing."""

import dataclasses
import math

import pytest

from trimtab.config.experiment import Experiment
from trimtab.errors import DataError
from trimtab.evaluation.coverage import answers
from trimtab.evaluation.evaluate import Cost, model_names, oracle_of, summarise
from trimtab.evaluation.scoring import best_of, score_decoder
from trimtab.records import Generation, Score


class Lengths:
    """A reward that everyone can compute: the number of characters, less 3; `bad` is NaN."""

    def score(self, prompts, responses):
        assert len(prompts) == len(responses)
        return [math.nan if response == "bad" else float(len(response) - 3) for response in responses]


class Negative(Lengths):
    def score(self, prompts, responses):
        return [-reward for reward in super().score(prompts, responses)]


def generation(prompt_id, text, index=0, token_ids=(1, 2)):
    return Generation(prompt_id, f"prompt {prompt_id}", index, [0], list(token_ids), text, "length")


def experiment(*decoders, **values):
    return Experiment.model_validate({"name": "demo", "guide": {"decoders": list(decoders)}, **values})


def encode(text):
    return [ord(letter) for letter in text]


def fluency(generations):
    return [-1.0 * len(each.text) for each in generations], [2 * len(each.text) for each in generations]


BASE, BON, GOLD = {"name": "base"}, {"successors": 2}, {"best_of": "bon-2"}
TEXTS = {
    "base": {"p": "aaaa", "q": "bb"},
    "bon-2": {"p": "aaaaaa", "q": "bbb"},
    "gold-bon-2": {"p": "a" * 8, "q": "b" * 6},
}


def summary(settings, texts, costs=None, **changes):
    generations = {name: [generation(*item) for item in items.items()] for name, items in texts.items()}
    scores = {name: score_decoder(name, each, Lengths(), Lengths(), fluency) for name, each in generations.items()}
    parts = settings.guide, settings.evaluate, settings.seed, model_names(settings.small, settings.base)
    costs = costs or {name: Cost(10.0, 4.0) for name in texts}
    rows = summarise(*parts, {**scores, **changes}, generations, encode, costs)
    return {row.decoder: row for row in rows}


def test_a_decoder_is_scored_on_its_answers_only():
    candidates = [generation("p", "second", 1), generation("p", "first", 0, (4, 5, 6)), generation("q", "only", 7)]
    scores = score_decoder("bon-2", candidates, Lengths(), Negative(), fluency)
    assert scores == [
        Score("bon-2", "p", 2.0, -2.0, -5.0, 10, 3),
        Score("bon-2", "q", 1.0, -1.0, -4.0, 8, 2),
    ]
    assert [each.text for each in answers(candidates)] == ["first", "only"]


def test_best_of_takes_the_highest_reward_and_of_equals_the_lowest_index():
    candidates = [
        generation("p", "same2", 2), generation("p", "same1", 1), generation("p", "low", 0),
        generation("q", "bad", 0), generation("q", "x", 1),
    ]  # fmt: skip
    best = best_of(candidates, Lengths())
    assert [(each.prompt_id, each.text, each.reward) for each in best] == [("p", "same1", 2.0), ("q", "x", -2.0)]


def test_rows_by_hand():
    rows = summary(experiment(BASE, BON, GOLD), TEXTS)
    base, bon, gold = rows["base"], rows["bon-2"], rows["gold-bon-2"]
    assert (base.reward, bon.reward, gold.reward) == (0.0, 1.5, 4.0)  # (1 - 1) / 2, (3 + 0) / 2, (5 + 3) / 2
    assert (bon.gain, gold.gain) == (1.5, 4.0)
    assert (bon.headroom, gold.headroom) == (0.375, 1.0)
    assert (base.gain, base.gain_low, base.headroom, base.judge_gain) == (None, None, None, None)
    assert bon.judge_gain == 1.5
    assert 1 <= bon.gain_low <= 1.5 <= bon.gain_high <= 2  # the two differences are 2 and 1
    assert (base.positive, bon.positive) == (0.5, 0.5)
    assert base.fluency == -0.5
    assert (base.new_tokens, base.flops, base.seconds) == (2.0, 5.0, 2.0)
    assert {row.model for row in rows.values()} == {"google/gemma-3-270m"}


def test_diversity_is_counted_on_equally_many_tokens():
    # Cut to base's counts (4 and 2) every decoder says aaaa and bb, however long it went on.
    rows = summary(experiment(BASE, BON, GOLD), TEXTS)
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert all(row.diversity == pytest.approx(expected) for row in rows.values())
    assert all(row.distinct_1 == pytest.approx(2 / 6) for row in rows.values())
    assert all(row.distinct_2 == pytest.approx(2 / 4) for row in rows.values())


def test_the_tuned_model_is_measured_against_the_untuned_one():
    settings = experiment(BASE, {"name": "untuned", "model": "untuned"}, {"name": "tuned", "model": "tuned"})
    rows = summary(settings, {"base": {"p": "a" * 9}, "untuned": {"p": "aaa"}, "tuned": {"p": "aaaa"}})
    assert rows["tuned"].gain == 1.0
    assert rows["tuned"].headroom is None  # nothing was picked by the gold reward from the tuned model's samples
    assert rows["tuned"].model == "HuggingFaceTB/SmolLM2-135M-Instruct (tuned)"


def test_headroom_compares_with_the_pool_of_the_same_size():
    decoders = [BASE, {"successors": 16}, {"successors": 32}, {"best_of": "bon-32"}, {"best_of": "bon-16"}]
    guide = experiment(*decoders, {"width": 4, "successors": 4, "chunk": 5}, {"successors": 8}).guide
    oracle = {decoder.name: oracle_of(guide, decoder).name for decoder in guide.decoders}
    assert oracle["bon-16"] == oracle["gold-bon-16"] == oracle["cbs-4-4-5"] == "gold-bon-16"
    assert oracle["bon-32"] == oracle["gold-bon-32"] == "gold-bon-32"
    assert oracle["bon-8"] == "gold-bon-32"


def test_headroom_is_left_blank_for_another_model_and_without_a_gold_pick():
    guide = experiment(BASE, BON, GOLD, {"name": "untuned", "model": "untuned"}, {"beta": 1.0}).guide
    assert oracle_of(guide, guide.decoder("untuned")) is None
    assert oracle_of(guide, guide.decoder("eft-1")) is None
    assert summary(experiment(BASE, BON), {"base": {"p": "a"}, "bon-2": {"p": "aa"}})["bon-2"].headroom is None


def test_the_row_of_a_decoder_does_not_depend_on_the_others():
    texts = {"base": {str(i): "a" * i for i in range(9)}, "bon-2": {str(i): "a" * (i * i) for i in range(9)}}
    alone = summary(experiment(BASE, BON), texts)
    crowded = summary(experiment({"name": "eft", "beta": 1.0}, BASE, BON), {**texts, "eft": texts["bon-2"]})
    for name, row in alone.items():  # but for what compares it with the others
        compared = {field: vars(row)[field] for field in ("to_best", "to_best_low", "to_best_high", "against")}
        assert dataclasses.replace(crowded[name], **compared) == row
        assert crowded[name].against["bon-2" if name == "base" else "base"] == next(iter(row.against.values()))


def test_prompts_are_paired_by_id_in_whatever_order_they_come():
    settings = experiment(BASE, BON)
    turned = {**TEXTS, "bon-2": dict(reversed(TEXTS["bon-2"].items()))}
    assert summary(settings, turned)["bon-2"].gain == 1.5
    assert summary(settings, turned)["bon-2"].distinct_2 == summary(settings, TEXTS)["bon-2"].distinct_2


def test_a_prompt_without_a_reward_is_left_out_on_both_sides_and_counted():
    rows = summary(
        experiment(BASE, BON),
        {"base": {"p": "bad", "q": "aaa", "r": "aaa"}, "bon-2": {"p": "a" * 99, "q": "aaaa", "r": "aaaaaa"}},
    )
    assert (rows["bon-2"].gain, rows["bon-2"].reward) == (2.0, 2.0)
    assert (rows["bon-2"].prompts, rows["bon-2"].left_out) == (2, 1)
    assert rows["base"].flops == pytest.approx(10 / 3)  # the prompt was decoded all the same


def test_a_decoder_without_any_finite_reward_is_an_error():
    with pytest.raises(DataError, match="all 1 prompts of decoder bon-2 are set aside"):
        summary(experiment(BASE, BON), {"base": {"p": "a"}, "bon-2": {"p": "bad"}})


def test_different_prompts_are_an_error_that_names_them():
    with pytest.raises(DataError, match=r"base and bon-2 cover different prompts \(2 differ: p, q\)"):
        summary(experiment(BASE, BON), {"base": {"p": "a"}, "bon-2": {"q": "a"}})


def test_missing_or_doubled_scores_are_an_error():
    with pytest.raises(DataError, match="bon-2 has no scores"):
        summary(experiment(BASE, BON), {"base": {"p": "a"}})
    twice = [Score("bon-2", "p", 1.0, 1.0, -1.0, 1, 1)] * 2
    with pytest.raises(DataError, match="more than one score"):
        summary(experiment(BASE, BON), {"base": {"p": "a"}, "bon-2": {"p": "a"}}, **{"bon-2": twice})


def test_scores_of_other_generations_are_an_error():
    other = [dataclasses.replace(Score("", "z", 1.0, 1.0, -1.0, 1, 1), decoder=name) for name in ("base", "bon-2")]
    with pytest.raises(DataError, match="generations of decoder base are not those that were scored"):
        summary(
            experiment(BASE, BON), {"base": {"p": "a"}, "bon-2": {"p": "a"}}, base=other[:1], **{"bon-2": other[1:]}
        )


def test_a_gold_pick_costs_what_its_samples_cost_and_any_other_needs_a_cost():
    settings = experiment(BASE, BON, GOLD)
    rows = summary(settings, TEXTS, {"base": Cost(1.0, 1.0), "bon-2": Cost(8.0, 6.0)})
    assert (rows["gold-bon-2"].flops, rows["gold-bon-2"].seconds) == (4.0, 3.0)
    with pytest.raises(DataError, match="decoder bon-2 has no cost"):
        summary(settings, TEXTS, {"base": Cost(1.0, 1.0)})
