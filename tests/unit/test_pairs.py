"""Selection and labelling of pairs."""

import itertools
import math
import time

import numpy as np
import pytest

from trimtab.config.pairs import PairsConfig, Threshold
from trimtab.errors import DataError
from trimtab.preferences.pairs import make_pairs, resolve_bounds, summarize
from trimtab.preferences.strategies import STRATEGIES, Bounds
from trimtab.records import Generation


def generation(index: int, reward: float | None, prompt_id: str = "p0", text: str | None = None) -> Generation:
    return Generation(
        prompt_id=prompt_id,
        prompt=f"prompt {prompt_id}",
        index=index,
        prompt_ids=[1, len(prompt_id)],
        token_ids=[index + 10, 0] if index % 2 else [index + 10],
        text=text if text is not None else f"response {index}",
        finish="eos" if index % 2 else "length",
        reward=reward,
    )


def scored(rewards: list[float], prompt_id: str = "p0") -> list[Generation]:
    return [generation(index, reward, prompt_id) for index, reward in enumerate(rewards)]


REWARDS = [0.3, -1.0, 2.5, 0.5, 1.75, -0.25]


@pytest.mark.parametrize(
    ("strategy", "allowed"),
    [
        ("random", lambda a, b: True),
        ("margin", lambda a, b: b - a > 1.25),
        ("straddle", lambda a, b: a < 0.5 < b),
    ],
)
def test_drawn_strategies_reach_exactly_the_allowed_pairs(strategy, allowed):
    """All pairs that the definition allows, found by listing them, and no other; a reward on the threshold is on
    neither side, and a difference equal to the margin (1.75 - 0.5) is not more than it."""
    rewards = np.sort(np.array(REWARDS))
    expected = {(i, j) for i, j in itertools.combinations(range(6), 2) if allowed(rewards[i], rewards[j])}
    drawn = STRATEGIES[strategy].function(rewards, Bounds(margin=1.25, threshold=0.5), 100, np.random.default_rng(0))
    assert len(drawn) == len(expected)
    assert {(int(i), int(j)) for i, j in drawn} == expected


@pytest.mark.parametrize("strategy", ["random", "margin", "straddle"])
def test_drawn_strategies_are_uniform(strategy):
    """Each allowed pair comes first equally often: 5 standard deviations of a fair draw."""
    rewards, bounds, draws = np.sort(np.array(REWARDS)), Bounds(margin=1.0, threshold=0.4), 3000
    rng = np.random.default_rng(1)
    allowed = len(STRATEGIES[strategy].function(rewards, bounds, 100, rng))
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        (pair,) = STRATEGIES[strategy].function(rewards, bounds, 1, rng).tolist()
        counts[tuple(pair)] = counts.get(tuple(pair), 0) + 1
    assert len(counts) == allowed
    tolerance = 5 * math.sqrt(draws / allowed)
    assert all(abs(count - draws / allowed) < tolerance for count in counts.values())


def test_best_worst_goes_inward_and_never_pairs_equals():
    """Best with worst, second best with second worst; the middle two of equal reward are no pair."""
    strategy, rng = STRATEGIES["best_worst"].function, np.random.default_rng(0)
    assert strategy(np.array([0.0, 1.0, 2.0, 2.0, 5.0, 6.0]), Bounds(), 9, rng).tolist() == [[0, 5], [1, 4]]
    assert strategy(np.array([0.0, 1.0, 2.0]), Bounds(), 1, rng).tolist() == [[0, 2]]


def test_winner_is_the_higher_reward_wherever_it_stands():
    """Guards chosen and rejected swapped: under argmax the chosen response always has the higher reward and is the
    text, ids and finish of that generation."""
    generations = [g for p in range(40) for g in scored(REWARDS, f"p{p}")]
    pairs = make_pairs(generations, PairsConfig(strategy="best_worst", per_prompt=3), seed=0)
    assert len(pairs) == 120
    for pair in pairs:
        assert pair.rewards[pair.chosen] > pair.rewards[1 - pair.chosen]
        for text, ids, ended, reward in zip(pair.responses, pair.token_ids, pair.ended, pair.rewards, strict=True):
            index = int(text.removeprefix("response "))
            assert (ids[0], ended, reward) == (index + 10, index % 2 == 1, REWARDS[index])
            assert (ids[-1] == 0) == ended
        assert pair.probability == pytest.approx(1 / (1 + math.exp(pair.rewards[1] - pair.rewards[0])))
        assert pair.prompt_ids == [1, len(pair.prompt_id)]
        assert pair.prompt == f"prompt {pair.prompt_id}"
    assert 30 < sum(pair.chosen for pair in pairs) < 90, "which response stands first must be random"


def test_bradley_terry_labels_follow_their_probability():
    """Response 0 wins in a share sigmoid(r0 - r1) of the draws, within 5 standard deviations."""
    generations = [g for p in range(4000) for g in scored([0.0, 1.0], f"p{p}")]
    pairs = make_pairs(generations, PairsConfig(strategy="random", labels="bradley_terry"), seed=3)
    higher_wins = np.mean([pair.rewards[pair.chosen] > pair.rewards[1 - pair.chosen] for pair in pairs])
    expected = 1 / (1 + math.exp(-1))
    assert abs(higher_wins - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)
    assert summarize(pairs)["agreement"] == pytest.approx(higher_wins)


def test_extreme_rewards_have_probabilities_of_zero_and_one():
    """exp overflows at 710."""
    (pair,) = make_pairs(scored([-1e4, 1e4]), PairsConfig(), seed=0)
    assert pair.probability == (1.0 if pair.chosen == 0 else 0.0)


def test_equal_texts_never_meet():
    """Sampling repeats itself: of one prompt's equal texts the first stands for all."""
    repeated = [generation(0, 1.0, text="a"), generation(1, 1.0, text="a"), generation(2, 0.0, text="b")]
    pairs = make_pairs(repeated, PairsConfig(strategy="random", per_prompt=10), seed=0)
    assert [sorted(pair.responses) for pair in pairs] == [["a", "b"]]
    with pytest.raises(DataError, match="random finds no train pair among 1 different responses"):
        make_pairs(repeated[:2], PairsConfig(strategy="random"), seed=0)


def test_responses_of_different_prompts_never_meet():
    generations = [*scored([0.0], "a"), *scored([5.0], "b"), *scored([1.0, 2.0], "c")]
    pairs = make_pairs(generations, PairsConfig(strategy="random", per_prompt=5), seed=0)
    assert [pair.prompt_id for pair in pairs] == ["c"]


def test_no_pair_comes_twice():
    pairs = make_pairs(scored(REWARDS), PairsConfig(strategy="random", per_prompt=1000), seed=0)
    assert len({frozenset(pair.responses) for pair in pairs}) == len(pairs) == 15


def test_total_counts_pairs_of_one_prompt_and_caps_those_of_many():
    assert len(make_pairs(scored(REWARDS), PairsConfig(strategy="random", total=7), seed=0)) == 7
    many = [g for p in range(10) for g in scored(REWARDS, f"p{p}")]
    capped = make_pairs(many, PairsConfig(strategy="random", per_prompt=2, total=7), seed=0)
    assert len(capped) == 7
    whole = make_pairs(many, PairsConfig(strategy="random", per_prompt=2), seed=0)
    assert len(whole) == 20
    assert [pair for pair in whole if pair in capped] == capped, "a capped draw is part of the whole, in its order"


def test_seed_decides_and_other_prompts_do_not():
    config = PairsConfig(strategy="random", labels="bradley_terry", per_prompt=3)
    one, two = scored(REWARDS, "a"), scored(REWARDS, "b")
    assert make_pairs(one + two, config, 5) == make_pairs(one + two, config, 5)
    assert make_pairs(one + two, config, 5) != make_pairs(one + two, config, 6)
    assert make_pairs(one + two, config, 5)[3:] == make_pairs(two, config, 5)


def test_quantiles_resolve_to_rewards():
    """`threshold` is a quantile of all rewards; `margin` is one of the differences within prompts, checked against
    the sorted list of them."""
    generations = [*scored(REWARDS, "a"), *scored([10.0, 11.0, 13.5], "b")]
    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        config = PairsConfig(strategy="margin", margin=Threshold(quantile=share), threshold=Threshold(quantile=share))
        bounds = resolve_bounds(generations, config)
        differences = sorted(
            abs(a - b) for rewards in (REWARDS, [10.0, 11.0, 13.5]) for a, b in itertools.combinations(rewards, 2)
        )
        assert bounds.threshold == pytest.approx(np.quantile([*REWARDS, 10.0, 11.0, 13.5], share))
        assert bounds.margin == pytest.approx(differences[max(0, math.ceil(share * len(differences)) - 1)])


def test_validation_pairs_can_share_the_training_threshold():
    config = PairsConfig(strategy="straddle", threshold=Threshold(quantile=0.5), per_prompt=9)
    bounds = resolve_bounds(scored([0.0, 1.0, 2.0, 3.0]), config)
    pairs = make_pairs(scored([1.0, 2.0, 8.0, 9.0]), config, 0, "validation", bounds)
    assert {min(pair.rewards) for pair in pairs} == {1.0}
    assert {pair.split for pair in pairs} == {"validation"}


def test_rewards_that_are_no_numbers_are_left_out():
    generations = scored([0.0, math.nan, 1.0, math.inf])
    pairs = make_pairs(generations, PairsConfig(strategy="random", per_prompt=9), seed=0)
    assert [sorted(pair.rewards) for pair in pairs] == [[0.0, 1.0]]
    with pytest.raises(DataError, match="none of 2 generations has a finite reward"):
        make_pairs(scored([math.nan, math.nan]), PairsConfig(), seed=0)


def test_a_generation_without_a_reward_is_named():
    with pytest.raises(DataError, match="generation 1 of prompt p0 has no reward"):
        make_pairs([generation(0, 1.0), generation(1, None)], PairsConfig(), seed=0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (PairsConfig(strategy="margin", margin=Threshold(value=9.0)), "margin > 9 .* from -1 to 2.5"),
        (PairsConfig(strategy="straddle", threshold=Threshold(value=4.0)), "straddle of 4 .* from -1 to 2.5"),
    ],
)
def test_an_impossible_threshold_is_named_with_the_rewards_range(config, named):
    with pytest.raises(DataError, match=named):
        make_pairs(scored(REWARDS), config, seed=0)


@pytest.mark.parametrize("strategy", ["random", "margin", "straddle"])
def test_the_second_write_ups_size_takes_seconds(strategy):
    """10,000 unprompted responses have 50 million pairs, which must not be listed; 20,000 are drawn."""
    generations = scored(np.random.default_rng(0).normal(size=10_000).tolist())
    config = PairsConfig(
        strategy=strategy, total=20_000, margin=Threshold(quantile=0.5), threshold=Threshold(quantile=0.5)
    )
    started = time.monotonic()
    pairs = make_pairs(generations, config, seed=0)
    assert time.monotonic() - started < 15
    assert len({frozenset(pair.responses) for pair in pairs}) == 20_000
    if strategy == "margin":
        # Half of all differences of normal rewards exceed 0.6745 * sqrt(2).
        assert min(abs(pair.rewards[0] - pair.rewards[1]) for pair in pairs) == pytest.approx(0.954, abs=0.02)


def test_summary_counts_margin_and_agreement():
    pairs = make_pairs([*scored([0.0, 3.0], "a"), *scored([1.0, 2.0], "b")], PairsConfig(), seed=0)
    assert summarize(pairs) == {"pairs": 2, "prompts": 2, "mean_margin": 2.0, "agreement": 1.0}
    assert summarize([]) == {"pairs": 0, "prompts": 0, "mean_margin": None, "agreement": None}
