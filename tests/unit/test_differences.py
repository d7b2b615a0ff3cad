"""Decoders against each other: paired by prompt, with the other sign the other way round, only over finite scores."""

import dataclasses
import math

import numpy as np
import pytest

from tiny_report import run
from trimtab.evaluation import metrics
from trimtab.evaluation.differences import difference, differences
from trimtab.evaluation.marks import best_decoder
from trimtab.records import Score

SETTINGS = {"resamples": 500, "confidence": 0.95, "seed": 0}


def scores(decoder, shift=0.0, count=40):
    """Rewards that differ far more from prompt to prompt than from decoder to decoder."""
    noise = np.random.default_rng(len(decoder)).normal(0, 0.1, count)
    return [
        Score(decoder, f"p{n}", 10.0 * n + shift + noise[n], None, -2.0 * (n + 1) - shift, n + 1, n + 1)
        for n in range(count)
    ]


def test_differences_are_paired_so_that_prompts_do_not_blur_them():
    found = difference(scores("a", 1.0), scores("bb"), **SETTINGS)
    assert found.clear and found.reward.low > 0.9 and found.reward.high < 1.1 and found.prompts == 40
    shuffled = difference(scores("a", 1.0), scores("bb")[::-1], **SETTINGS)
    assert shuffled == found


def test_fluency_is_that_of_the_table_nats_a_token():
    ours, theirs = scores("a", 1.0), scores("bb")
    found = difference(ours, theirs, **SETTINGS).fluency
    means = [
        metrics.mean_log_probability([s.log_probability for s in each], [s.base_tokens for s in each])
        for each in (ours, theirs)
    ]
    assert found.mean == pytest.approx(means[0] - means[1]) and found.low < found.mean < found.high < 0
    unread = [dataclasses.replace(score, log_probability=0.0, base_tokens=0) for score in ours]
    assert difference(unread, theirs, **SETTINGS).fluency is None


def test_the_other_way_round_has_the_other_sign():
    found = differences({"a": scores("a", 1.0), "bb": scores("bb"), "ccc": scores("ccc", 2.0)}, **SETTINGS)
    assert list(found["a"]) == ["bb", "ccc"] and list(found["ccc"]) == ["a", "bb"]
    for first, second in (("a", "bb"), ("bb", "ccc")):
        one, two = found[first][second].reward, found[second][first].reward
        assert (one.mean, one.low, one.high) == (-two.mean, -two.high, -two.low)


def test_prompts_that_one_of_the_two_has_no_number_for_count_for_neither():
    ours, theirs = scores("a", 1.0), scores("bb")
    ours[3] = dataclasses.replace(ours[3], reward=math.nan)
    assert difference(ours, theirs[:-1], **SETTINGS).prompts == 38
    assert difference(ours[:1], theirs[1:], **SETTINGS) is None


def test_the_best_decoder_is_none_that_the_gold_reward_helped():
    guide = run({}, {"successors": 4}, {"best_of": "bon-4"}, {"successors": 2, "value": "reward", "name": "g"}).guide
    assert best_decoder(guide, {"base": 0.0, "bon-4": 1.0, "gold-bon-4": 5.0, "g": 3.0}) == "bon-4"
    assert best_decoder(guide, {"gold-bon-4": 5.0}) is None
