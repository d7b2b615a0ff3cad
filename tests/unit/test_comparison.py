"""Win rates of two decoders: ties, intervals, and what length does to them, against another fit of the same model."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trimtab.errors import DataError
from trimtab.evaluation.comparison import RIDGE, Judged, compare, fit


def judged(rewards: list[float], lengths: list[int] | None = None) -> dict[str, Judged]:
    sizes = lengths or [10] * len(rewards)
    return {f"p{number}": Judged(*pair) for number, pair in enumerate(zip(rewards, sizes, strict=True))}


def test_a_tie_is_half_a_win() -> None:
    found = compare(judged([1, 2, 3, 4]), judged([0, 2, 4, 4]), resamples=500, confidence=0.95, seed=0)
    assert (found.wins, found.ties, found.losses, found.prompts) == (1, 2, 1, 4)
    assert found.win_rate.mean == 0.5 and 0 <= found.win_rate.low <= 0.5 <= found.win_rate.high <= 1


def test_turned_round_the_rates_are_the_rest() -> None:
    rng = np.random.default_rng(0)
    ours = judged(rng.normal(0.4, 1, 80).tolist(), rng.integers(20, 300, 80).tolist())
    theirs = judged(rng.normal(0, 1, 80).tolist(), rng.integers(20, 200, 80).tolist())
    one, two = (compare(*pair, resamples=500, confidence=0.95, seed=0) for pair in ((ours, theirs), (theirs, ours)))
    for rate in ("win_rate", "length_controlled"):
        assert vars(one)[rate].mean == pytest.approx(1 - vars(two)[rate].mean)
        assert vars(one)[rate].low == pytest.approx(1 - vars(two)[rate].high)
        assert vars(one)[rate].low < vars(one)[rate].mean < vars(one)[rate].high


def test_a_win_by_length_alone_is_none_under_control() -> None:
    """Who writes more wins more often, and nothing else matters: at equal length each would win half of the time."""
    rng = np.random.default_rng(1)
    longer = rng.normal(80, 80, 400)
    wins = rng.random(400) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))
    ours = judged(wins.astype(float).tolist(), [1000 + int(each) for each in longer])
    found = compare(ours, judged([0.5] * 400, [1000] * 400), resamples=300, confidence=0.95, seed=0)
    assert found.win_rate.low > 0.6
    assert found.length_controlled.low < 0.5 < found.length_controlled.high
    assert found.length_controlled.mean == pytest.approx(0.5, abs=0.1)


def test_equal_lengths_control_nothing() -> None:
    found = compare(judged([1.0] * 60 + [-1.0] * 20), judged([0.0] * 80), resamples=300, confidence=0.95, seed=0)
    assert found.length_controlled.mean == pytest.approx(found.win_rate.mean, abs=0.002)


def test_who_always_wins_has_finite_rates() -> None:
    found = compare(
        judged([1.0] * 40, [*range(40)]), judged([0.0] * 40, [5] * 40), resamples=100, confidence=0.95, seed=0
    )
    assert found.win_rate == (1.0, 1.0, 1.0) and 0.9 < found.length_controlled.mean < 1


def test_the_fit_is_the_penalised_maximum_of_the_likelihood() -> None:
    """The same minimum as another library's, with ties as half a win and half a loss, and weights as repetitions."""
    rng = np.random.default_rng(2)
    outcomes = rng.choice([0, 0.5, 1], 50, p=[0.2, 0.2, 0.6])
    terms, weights = np.tanh(rng.normal(0, 1, 50)), rng.integers(0, 4, 50).astype(float)
    features = np.stack([np.ones(50), terms], axis=1)
    model = LogisticRegression(C=1 / RIDGE, fit_intercept=False, tol=1e-12, max_iter=10_000)
    both = np.concatenate([weights * outcomes, weights * (1 - outcomes)])
    model.fit(np.concatenate([features, features]), [1] * 50 + [0] * 50, sample_weight=both)
    (found,) = fit(outcomes, terms, weights[None])
    assert found == pytest.approx(model.coef_[0], abs=1e-6)


def test_prompts_without_a_reward_are_left_out_and_others_must_be_the_same() -> None:
    ours, theirs = judged([1, math.nan, 3]), judged([0, 0, math.inf])
    found = compare(ours, theirs, resamples=100, confidence=0.95, seed=0)
    assert (found.prompts, found.left_out, found.wins) == (1, 2, 1)
    with pytest.raises(DataError, match="none of 1 prompts has two finite rewards"):
        compare(judged([math.nan]), judged([0]), resamples=100, confidence=0.95, seed=0)
    with pytest.raises(DataError, match=r"different prompts \(1 differ\): decode the same"):
        compare(ours, judged([0, 0]), resamples=100, confidence=0.95, seed=0)
