"""Calibration of a two-class margin, on arrays.

A classifier's margin m = log p(positive) - log p(negative) is calibrated by m / temperature + bias (Platt scaling;
without bias it is temperature scaling, Guo et al. 2017, arXiv 1706.04599). `margins` and `labels` (0 or 1) are [n].

    >>> margins, labels = np.array([4.0, -4.0, 4.0, -4.0]), np.array([1, 0, 0, 1])
    >>> negative_log_likelihood(margins / 1000, labels) < negative_log_likelihood(margins, labels)
    True
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
MAX_PARAMETER = 5.0
"""Bound of the log-temperature and of the bias, either way."""


@dataclass(frozen=True)
class Calibration:
    """margin -> margin / temperature + bias, in nats; the temperature is positive, so the order of texts stays."""

    temperature: float = 1.0
    bias: float = 0.0

    def apply(self, margins: Floats) -> Floats:
        """Calibrated margins, same shape."""
        return margins / self.temperature + self.bias


def negative_log_likelihood(margins: Floats, labels: Labels) -> float:
    """Mean of -log p(label), nats."""
    return float(np.logaddexp(0.0, np.where(labels == 1, -margins, margins)).mean())


def expected_calibration_error(margins: Floats, labels: Labels, bins: int) -> float:
    """Mean over texts of |accuracy - confidence| of the text's bin, Guo et al. 2017, equation 3.

    Confidence is max(p, 1 - p); `bins` equal bins cut [0.5, 1].
    """
    confidence = 1.0 / (1.0 + np.exp(-np.abs(margins)))
    right = (margins > 0) == (labels == 1)
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(margins))


def fit_calibration(margins: Floats, labels: Labels, *, with_bias: bool) -> Calibration:
    """The calibration of least negative log-likelihood, with a temperature in e^±5 and a bias in ±5."""
    values, targets = torch.from_numpy(margins).double(), torch.from_numpy(labels).double()
    point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([point], max_iter=200, line_search_fn="strong_wolfe")

    def bounded() -> tuple[torch.Tensor, torch.Tensor]:
        log_temperature, bias = point.clamp(-MAX_PARAMETER, MAX_PARAMETER)
        return log_temperature.exp(), bias * with_bias

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        temperature, bias = bounded()
        value = binary_cross_entropy_with_logits(values / temperature + bias, targets)
        value.backward()
        return value

    optimizer.step(loss)
    temperature, bias = bounded()
    return Calibration(float(temperature.detach()), float(bias.detach()))


def cross_fitted(margins: Floats, labels: Labels, *, with_bias: bool) -> Floats:
    """The margins, each half calibrated by a fit on the other half, so that no text is measured by its own fit.

    A half has every second text of each label, in order.
    """
    half = np.empty(len(labels), dtype=np.int64)
    for label in (0, 1):
        half[labels == label] = np.arange(np.sum(labels == label)) % 2
    calibrated = np.empty_like(margins)
    for index in (0, 1):
        fitted = fit_calibration(margins[half != index], labels[half != index], with_bias=with_bias)
        calibrated[half == index] = fitted.apply(margins[half == index])
    return calibrated


def choose_calibration(margins: Floats, labels: Labels) -> tuple[Calibration, Floats]:
    """The calibration fitted on all margins, with a bias only where that lowers the cross-fitted negative
    log-likelihood; and the cross-fitted margins, by which to judge it."""
    judged = {choice: cross_fitted(margins, labels, with_bias=choice) for choice in (False, True)}
    best = min(judged, key=lambda choice: negative_log_likelihood(judged[choice], labels))
    return fit_calibration(margins, labels, with_bias=best), judged[best]
