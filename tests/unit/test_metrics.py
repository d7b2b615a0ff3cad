"""The measures against values worked out by hand, and the properties that every input must keep."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.evaluation import metrics

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)
TOKEN_LISTS = st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=1, max_size=8)


def interval(values, seed=0, resamples=2000, confidence=0.95):
    rng = np.random.default_rng(seed)
    return metrics.bootstrap_interval(values, resamples=resamples, confidence=confidence, rng=rng)


def test_interval_of_a_fair_coin_is_the_binomial_one():
    # The mean of 4 draws from {0, 1} is k/4 with P(k) = 1, 4, 6, 4, 1 sixteenths. The 25 % and 75 % quantiles of that
    # distribution are 1/4 (cumulated 1/16, 5/16) and 3/4 (cumulated 11/16, 15/16): only the exact ends can come out.
    assert interval([0, 0, 1, 1], resamples=20_000, confidence=0.5) == (0.25, 0.75)


def test_interval_has_the_width_that_the_central_limit_gives():
    values = np.random.default_rng(1).normal(size=400)
    low, high = interval(values, resamples=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.08)


def test_interval_is_the_same_for_a_seed_and_another_for_another():
    values = np.arange(20.0) ** 2
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_batches_do_not_change_how_many_resamples_are_drawn(monkeypatch):
    values = np.arange(10.0)
    monkeypatch.setattr(metrics, "MAX_RESAMPLED", 70)
    low, high = interval(values, resamples=1001)
    assert low < 4.5 < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(10), rel=0.15)


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.floats(-10, 10), st.floats(0.1, 10))
def test_interval_moves_and_stretches_with_the_values(values, shift, scale):
    low, high = interval(values, resamples=100)
    moved_low, moved_high = interval(np.array(values) * scale + shift, resamples=100)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert moved_low == pytest.approx(low * scale + shift, abs=1e-8)
    assert moved_high == pytest.approx(high * scale + shift, abs=1e-8)


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, math.nan], [math.inf]])
def test_interval_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="finite"):
        interval(values)


def test_paired_gain_is_the_mean_difference_and_ignores_what_prompts_share():
    # Differences 1, 1, 1, 5: mean 2, and no resampled mean lies outside [1, 5], though the values span 1,000.
    gain = metrics.paired_gain(
        [1, 101, 501, 1005], [0, 100, 500, 1000], resamples=500, confidence=0.95, rng=np.random.default_rng(0)
    )
    assert gain.mean == 2
    assert 1 <= gain.low <= 2 <= gain.high <= 5


@settings(max_examples=50, deadline=None)
@given(NUMBERS)
def test_gain_over_itself_is_exactly_zero(values):
    gain = metrics.paired_gain(values, values, resamples=100, confidence=0.95, rng=np.random.default_rng(0))
    assert gain == (0, 0, 0)


def test_paired_gain_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="2 values, 1 of the reference"):
        metrics.paired_gain([1, 2], [1], resamples=100, confidence=0.95, rng=np.random.default_rng(0))


def test_headroom_is_a_share_and_none_where_there_is_nothing_to_take():
    assert metrics.headroom(0.83, 1.77) == pytest.approx(0.4689, abs=1e-4)
    assert metrics.headroom(-0.5, 1.0) == -0.5
    assert metrics.headroom(0.5, 0.0) is None
    assert metrics.headroom(0.5, -1.0) is None


def test_zero_is_not_positive():
    assert metrics.share_positive([-1.0, 0.0, 0.5, 2.0]) == 0.5


def test_entropy_of_known_distributions():
    assert metrics.token_entropy([[1, 2], [3, 4]]) == pytest.approx(math.log(4))
    assert metrics.token_entropy([[7, 7, 7], [7]]) == 0
    # Shares 1/2, 1/4, 1/4: H = 1/2 ln 2 + 2 * 1/4 ln 4 = 1.5 ln 2.
    assert metrics.token_entropy([[1, 1, 2, 3]]) == pytest.approx(1.5 * math.log(2))
    assert metrics.token_entropy([[], []]) == 0


@given(TOKEN_LISTS)
def test_entropy_lies_between_zero_and_the_uniform_one_and_knows_no_order(lists):
    entropy = metrics.token_entropy(lists)
    kinds = {token for tokens in lists for token in tokens}
    assert 0 <= entropy <= math.log(max(1, len(kinds))) + 1e-12
    assert metrics.token_entropy([tokens[::-1] for tokens in reversed(lists)]) == entropy


def test_distinct_counts_grams_inside_responses_only():
    # Bigrams: 12, 21, 12 and 12, 23: distinct 12, 21, 23 of 5. The pair 2|1 across the border would make it 3 of 6.
    assert metrics.distinct_n([[1, 2, 1, 2], [1, 2, 3]], 2) == pytest.approx(3 / 5)
    assert metrics.distinct_n([[1, 2, 1, 2], [1, 2, 3]], 1) == pytest.approx(3 / 7)
    assert metrics.distinct_n([[1], []], 2) == 0


@given(TOKEN_LISTS, st.integers(1, 3))
def test_saying_everything_twice_halves_distinct(lists, n):
    assert metrics.distinct_n(lists + lists, n) == pytest.approx(metrics.distinct_n(lists, n) / 2)


def test_equal_counts_cut_each_prompt_to_its_shortest_response():
    cut = metrics.equal_counts({"a": [[1, 2, 3], [4]], "b": [[5, 6], [7, 8, 9]]})
    assert cut == {"a": [[1, 2], [4]], "b": [[5, 6], [7]]}


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 3), max_size=6)] * 3), max_size=6))
def test_equal_counts_keep_beginnings_and_leave_no_decoder_longer(prompts):
    lists = {name: [prompt[at] for prompt in prompts] for at, name in enumerate("abc")}
    cut = metrics.equal_counts(lists)
    for name, entries in cut.items():
        assert [len(entry) for entry in entries] == [min(map(len, prompt)) for prompt in prompts]
        assert all(whole[: len(entry)] == entry for whole, entry in zip(lists[name], entries, strict=True))


def test_equal_counts_refuse_decoders_with_different_numbers_of_prompts():
    with pytest.raises(ValueError, match="one response for each prompt"):
        metrics.equal_counts({"a": [[1]], "b": [[1], [2]]})


def test_mean_log_probability_weighs_tokens_not_responses():
    assert metrics.mean_log_probability([-2.0, -9.0], [1, 9]) == pytest.approx(-1.1)
    assert metrics.mean_log_probability([0.0], [0]) is None
