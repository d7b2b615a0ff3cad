"""Which of two decoders has the higher gold reward, prompt by prompt, with and without the effect of length.

A decoder wins on a prompt where its answer has the higher reward; equal rewards are half a win for each.

**Length-controlled win rate**, after Dubois et al. 2024 (*Length-Controlled AlpacaEval*, arXiv 2404.04475, equation 3):
the outcomes y of n prompts (1, 1/2, 0) are fitted by

    p(first wins on prompt i) = sigmoid(a + b * tanh((l_i - m_i) / s))

where l_i and m_i are the lengths of the two answers in characters and s is the standard deviation of l_i - m_i over
all prompts. The length-controlled win rate is sigmoid(a): what the first would win if both answers always had the same
length. The term for an instruction's difficulty is left out, since it is fitted over many models and here there are
two. a and b minimise the log loss, summed over prompts, plus RIDGE * (a^2 + b^2) / 2, which keeps them finite where
one of the two always wins; AlpacaEval chooses its penalty by cross-validation.

    >>> answers = {"p0": Judged(1.0, 10), "p1": Judged(2.0, 20)}
    >>> compare(answers, answers, resamples=100, confidence=0.95, seed=0).win_rate.mean
    0.5
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.evaluation.metrics import Estimate, bootstrap_interval

RIDGE = 0.1
MAX_STEPS, MAX_STEP_LENGTH = 100, 2.0  # of Newton's method
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """An answer's reward and its length in characters."""

    reward: float
    length: int


@dataclass(frozen=True)
class Comparison:
    """How often the first of two decoders wins over the second, as shares from 0 to 1 with bootstrap intervals.

    `left_out` counts prompts on which a reward is not finite; lengths are means in characters.
    """

    prompts: int
    left_out: int
    wins: int
    ties: int
    losses: int
    win_rate: Estimate
    length_controlled: Estimate
    first_length: float
    second_length: float


def compare(
    first: Mapping[str, Judged], second: Mapping[str, Judged], *, resamples: int, confidence: float, seed: int
) -> Comparison:
    """Compare two decoders' answers to the same prompts, which are the keys.

    Intervals are percentile bootstraps over prompts; the length-controlled rate is fitted anew on every resample, with
    the s of all prompts.

    Raises:
        DataError: the prompts differ, or none has two finite rewards.
    """
    if set(first) != set(second):
        count = len(set(first) ^ set(second))
        raise DataError(f"the two answered different prompts ({count} differ): decode the same prompts with both")
    pairs = [(first[prompt], second[prompt]) for prompt in sorted(first)]
    kept = [(ours, theirs) for ours, theirs in pairs if np.isfinite([ours.reward, theirs.reward]).all()]
    if not kept:
        raise DataError(f"none of {len(pairs)} prompts has two finite rewards: check the reward")
    differences = np.array([ours.reward - theirs.reward for ours, theirs in kept])
    outcomes = (np.sign(differences) + 1) / 2
    lengths = np.array([(ours.length, theirs.length) for ours, theirs in kept], dtype=np.float64)
    rng = np.random.default_rng(seed)
    low, high = bootstrap_interval(outcomes, resamples=resamples, confidence=confidence, rng=rng)
    return Comparison(
        prompts=len(kept),
        left_out=len(pairs) - len(kept),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        win_rate=Estimate(float(outcomes.mean()), low, high),
        length_controlled=_length_controlled(outcomes, lengths[:, 0] - lengths[:, 1], resamples, confidence, seed),
        first_length=float(lengths[:, 0].mean()),
        second_length=float(lengths[:, 1].mean()),
    )


def _length_controlled(outcomes: Floats, longer: Floats, resamples: int, confidence: float, seed: int) -> Estimate:
    """sigmoid(a) of the fit on all prompts, and its interval from fits on resamples of them."""
    spread = longer.std()
    terms = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)
    count = len(outcomes)
    # a resample says how often each prompt is drawn
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    fits = fit(outcomes, terms, np.vstack([np.ones(count), weights]))
    rates = 1 / (1 + np.exp(-fits[:, 0]))
    low, high = np.quantile(rates[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(rates[0]), float(low), float(high))


def fit(outcomes: Floats, terms: Floats, weights: Floats) -> Floats:
    """a and b of each row of `weights` [fits, prompts], shape [fits, 2]: minimal weighted log loss with the penalty.

    Newton's method, all fits at once, from (0, 0). The objective is strictly convex, and the bound on a step's length
    lets it converge.
    """
    features = np.stack([np.ones_like(terms), terms], axis=1)
    solutions = np.zeros((len(weights), 2))
    for _ in range(MAX_STEPS):
        shares = 1 / (1 + np.exp(-(solutions @ features.T)))
        slope = (weights * (outcomes - shares)) @ features - RIDGE * solutions
        curvature = np.einsum("fp,pi,pj->fij", weights * shares * (1 - shares), features, features)
        step = np.linalg.solve(curvature + RIDGE * np.eye(2), slope[:, :, None])[:, :, 0]
        size = np.linalg.norm(step, axis=1, keepdims=True)
        solutions = solutions + step * np.minimum(1, MAX_STEP_LENGTH / np.maximum(size, 1e-300))
        if size.max() < 1e-10:
            break
    return solutions
