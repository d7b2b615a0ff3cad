"""Decoders compared with each other on the same prompts, by gold reward and by fluency.

>>> scores = [Score("bon-4", f"p{n}", 1.0 + n, None, -20.0, 10, 10) for n in range(3)]
>>> others = [Score("base", f"p{n}", 0.5 + n, None, -30.0, 10, 10) for n in range(3)]
>>> found = difference(scores, others, resamples=100, confidence=0.95, seed=0)
>>> found.reward, found.fluency.mean
(Estimate(mean=0.5, low=0.5, high=0.5), 1.0)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.evaluation import metrics
from trimtab.evaluation.coverage import is_finite
from trimtab.evaluation.metrics import Estimate
from trimtab.records import Score


@dataclass(frozen=True)
class Difference:
    """A decoder's mean minus another's over the prompts that both have finite scores for, with bootstrap intervals.

    `reward` in the reward's unit, `fluency` in nats a token; the latter is None where it was not measured.
    """

    reward: Estimate
    fluency: Estimate | None
    prompts: int

    @property
    def clear(self) -> bool:
        """Whether the interval of the reward leaves out 0."""
        return not self.reward.low <= 0 <= self.reward.high


def difference(
    ours: Sequence[Score], theirs: Sequence[Score], *, resamples: int, confidence: float, seed: int
) -> Difference | None:
    """The first decoder's scores minus the second's, paired by prompt; None where no prompt has both."""
    other = {score.prompt_id: score for score in theirs}
    pairs = [(score, other[score.prompt_id]) for score in ours if score.prompt_id in other]
    pairs = [(one, two) for one, two in pairs if is_finite(one) and is_finite(two)]
    if not pairs:
        return None
    settings: dict[str, Any] = {"resamples": resamples, "confidence": confidence}
    rewards, fluency = np.array([(one.reward, two.reward) for one, two in pairs]), None
    reward = metrics.paired_gain(rewards[:, 0], rewards[:, 1], rng=np.random.default_rng(seed), **settings)
    sums = np.array([(one.log_probability, two.log_probability) for one, two in pairs])
    tokens = np.array([(one.base_tokens, two.base_tokens) for one, two in pairs])
    if tokens.any(axis=0).all():
        fluency = metrics.rate_difference(sums, tokens, rng=np.random.default_rng(seed), **settings)
    return Difference(reward, fluency, len(pairs))


def differences(
    scores: Mapping[str, Sequence[Score]], *, resamples: int, confidence: float, seed: int
) -> dict[str, dict[str, Difference]]:
    """Of each decoder, its `difference` to each other one. Those of B to A are those of A to B with the other sign."""
    found: dict[str, dict[str, Difference]] = {decoder: {} for decoder in scores}
    names = list(scores)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            between = difference(scores[first], scores[second], resamples=resamples, confidence=confidence, seed=seed)
            if between is not None:
                found[first][second] = between
                found[second][first] = _reversed(between)
    return found


def _reversed(found: Difference) -> Difference:
    reward, fluency = (
        None if one is None else Estimate(-one.mean, -one.high, -one.low) for one in (found.reward, found.fluency)
    )
    assert reward is not None
    return Difference(reward, fluency, found.prompts)
