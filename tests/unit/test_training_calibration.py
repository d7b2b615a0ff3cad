"""Calibration against numbers worked out by hand, and its promises: order kept, nothing measured on itself."""

import math

import numpy as np
import pytest

from trimtab.training.calibration import (
    Calibration,
    choose_calibration,
    cross_fitted,
    expected_calibration_error,
    fit_calibration,
    negative_log_likelihood,
)


def drawn(temperature: float, bias: float, count: int = 4000):
    """Margins whose true log-odds are margin / temperature + bias."""
    rng = np.random.default_rng(0)
    margins = rng.normal(scale=4, size=count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-(margins / temperature + bias)))).astype(np.int64)
    return margins, labels


def test_negative_log_likelihood_by_hand():
    margins, labels = np.array([0.0, math.log(3), math.log(3)]), np.array([1, 1, 0])
    by_hand = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4)) / 3
    assert negative_log_likelihood(margins, labels) == pytest.approx(by_hand)


def test_expected_calibration_error_by_hand():
    # Confidence 0.75 twice (one right: gap 0.25) and 0.9 twice (both right: gap 0.1), on both sides of zero.
    margins = np.array([math.log(3), -math.log(3), math.log(9), -math.log(9)])
    labels = np.array([1, 1, 1, 0])
    assert expected_calibration_error(margins, labels, 10) == pytest.approx((2 * 0.25 + 2 * 0.1) / 4)
    assert expected_calibration_error(np.array([1000.0]), np.array([1]), 10) == pytest.approx(0.0)


@pytest.mark.parametrize(("temperature", "bias"), [(2.5, 0.0), (0.5, 0.0), (1.5, 1.0)])
def test_true_temperature_and_bias_are_found(temperature, bias):
    found = fit_calibration(*drawn(temperature, bias), with_bias=True)
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.bias == pytest.approx(bias, abs=0.15)


def test_bias_is_chosen_only_where_it_helps():
    assert choose_calibration(*drawn(2.0, 1.5))[0].bias == pytest.approx(1.5, abs=0.2)
    assert fit_calibration(*drawn(2.0, 1.5), with_bias=False).bias == 0.0


def test_calibration_lowers_error_and_keeps_the_order():
    margins, labels = drawn(3.0, 0.0)
    calibration, judged = choose_calibration(margins, labels)
    assert expected_calibration_error(judged, labels, 10) < 0.5 * expected_calibration_error(margins, labels, 10)
    assert (np.argsort(calibration.apply(margins)) == np.argsort(margins)).all()


def test_a_half_is_measured_without_its_own_texts():
    margins, labels = drawn(2.0, 0.0, 200)
    labels = np.arange(200) // 2 % 2  # the first half takes the even places
    changed = margins.copy()
    changed[0] += 5.0
    before, after = (cross_fitted(given, labels, with_bias=True) for given in (margins, changed))
    assert (before[2::2] == after[2::2]).all() and (before[1::2] != after[1::2]).all()


def test_labels_that_alternate_leave_no_half_with_one_label_only():
    # Halves by even and odd place would fit each bias on one label alone.
    margins, labels = np.tile([-1.0, 1.0], 50), np.tile([0, 1], 50)
    labels[:10] = 1 - labels[:10]
    judged = cross_fitted(margins, labels, with_bias=True)
    assert ((judged > 0) == (margins > 0)).all()


def test_separable_one_sided_and_inverted_margins_stay_finite():
    margins = np.array([-2.0, -1.0, 1.0, 2.0])
    for labels in ([0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]):
        found = fit_calibration(margins, np.array(labels), with_bias=True)
        assert 0 < found.temperature < 150 and abs(found.bias) <= 5
    assert Calibration().apply(margins).tolist() == margins.tolist()
