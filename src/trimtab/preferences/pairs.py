"""Which two responses to one prompt make a pair, and who wins.

A strategy sees nothing but the rewards of one prompt's responses, sorted, and says which positions meet; everything
else (grouping by prompt, labels, order within a pair) is the same for all of them. Knows nothing of models, texts'
meaning or files.

    >>> rewards = np.array([-1.0, 0.5, 2.0])
    >>> STRATEGIES["best_worst"](rewards, Bounds(), 1, np.random.default_rng(0)).tolist()
    [[0, 2]]
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.experiment import PairsConfig
from trimtab.records import Generation, Pair

Rewards = NDArray[np.float64]
Positions = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Thresholds as rewards: the least difference of a pair (`margin`), and where `straddle` divides (`threshold`)."""

    margin: float = 0.0
    threshold: float = 0.0


PairStrategy = Callable[[Rewards, Bounds, int, np.random.Generator], Positions]


def random(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """Any two responses."""
    return _draw(np.arange(1, len(rewards) + 1), len(rewards), count, rng)


def margin(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """Two responses whose rewards differ by more than `bounds.margin`."""
    # Never a response with itself, which a margin that rounding swallows would allow.
    first = np.maximum(np.searchsorted(rewards, rewards + bounds.margin, side="right"), np.arange(1, len(rewards) + 1))
    return _draw(first, len(rewards), count, rng)


def straddle(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """One response strictly below `bounds.threshold` and one strictly above."""
    below = np.searchsorted(rewards, bounds.threshold, side="left")
    above = np.searchsorted(rewards, bounds.threshold, side="right")
    return _draw(np.full(below, above), len(rewards), count, rng)


def best_worst(rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """The best against the worst, then the second best against the second worst, while their rewards differ."""
    low = np.arange(min(count, len(rewards) // 2))
    pairs = np.stack([low, len(rewards) - 1 - low], axis=1)
    return pairs[rewards[pairs[:, 0]] < rewards[pairs[:, 1]]]


# Each takes the finite rewards of one prompt's distinct responses in ascending order (shape n), the resolved bounds,
# the number of pairs wanted and a generator; it returns at most that many distinct pairs of positions, the lower
# reward first (shape k x 2).
STRATEGIES: dict[str, PairStrategy] = {
    "random": random,
    "margin": margin,
    "straddle": straddle,
    "best_worst": best_worst,
}


def make_pairs(
    generations: Sequence[Generation],
    config: PairsConfig,
    seed: int,
    split: Literal["train", "validation", "test"] = "train",
    bounds: Bounds | None = None,
) -> list[Pair]:
    """Pairs of the scored `generations`, prompt by prompt in their order of appearance.

    Of responses with one text to one prompt only the first counts; rewards that are not finite are left out. A
    prompt gives at most `config.per_prompt` pairs; where all generations share one prompt, `config.total` takes that
    place, and elsewhere it caps the number of pairs overall. Bradley-Terry labels are drawn with probability
    sigmoid(r0 - r1) that response 0 wins; `argmax` lets the higher reward win. Which response stands first is random.
    What is drawn for a prompt depends on `seed` and the prompt's id, not on the other prompts.

    `bounds` are `resolve_bounds` of the training generations where other splits are to share them; by default they
    are those of `generations`.

    Raises:
        DataError: a generation has no reward, or no pair satisfies the strategy.
    """
    groups = _groups(generations)
    if bounds is None:
        bounds = resolve_bounds(generations, config)
    count = config.total if len(groups) == 1 and config.total is not None else config.per_prompt
    pairs: list[Pair] = []
    for prompt_id, responses in groups.items():
        rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "little")])
        ordered = sorted(responses, key=_reward)
        rewards = np.array([_reward(response) for response in ordered], dtype=np.float64)
        for low, high in STRATEGIES[config.strategy](rewards, bounds, count, rng):
            pairs.append(_pair(ordered[low], ordered[high], config.labels, rng, split))
    if not pairs:
        raise DataError(_nothing_left(groups, config, bounds, split))
    if config.total is not None and len(pairs) > config.total:
        kept = np.sort(np.random.default_rng(seed).choice(len(pairs), config.total, replace=False))
        pairs = [pairs[index] for index in kept]
    return pairs


def resolve_bounds(generations: Sequence[Generation], config: PairsConfig) -> Bounds:
    """The thresholds of `config` as rewards.

    A quantile for `threshold` is one of all rewards, with linear interpolation; a quantile for `margin` is one of the
    differences of all two distinct responses to one prompt (the least difference that has this share at or below it).

    Raises:
        DataError: a generation has no reward, or none is finite.
    """
    rewards = [
        np.sort(np.array([_reward(response) for response in responses])) for responses in _groups(generations).values()
    ]
    margin, threshold = config.margin.value, config.threshold.value
    if margin is None:
        # The one quantile that takes work is taken only where it is used.
        share = float(config.margin.quantile or 0.0)
        margin = _difference_quantile(rewards, share) if config.strategy == "margin" else 0.0
    if threshold is None:
        everything = [reward for g in generations if math.isfinite(reward := _reward(g))]
        threshold = float(np.quantile(everything, float(config.threshold.quantile or 0.0)))
    return Bounds(margin=margin, threshold=threshold)


def summarize(pairs: Iterable[Pair]) -> dict[str, float | int | None]:
    """Number of pairs and prompts, mean absolute reward difference, and the share of labels that name the response
    of the higher reward. The last two leave out pairs without rewards or with equal ones, and are None where no pair
    is left."""
    pairs = list(pairs)
    margins = [pair.rewards[0] - pair.rewards[1] for pair in pairs if pair.rewards]
    agrees = [
        (pair.rewards[pair.chosen] > pair.rewards[1 - pair.chosen])
        for pair in pairs
        if pair.rewards and pair.rewards[0] != pair.rewards[1]
    ]
    return {
        "pairs": len(pairs),
        "prompts": len({pair.prompt_id for pair in pairs}),
        "mean_margin": float(np.mean(np.abs(margins))) if margins else None,
        "agreement": float(np.mean(agrees)) if agrees else None,
    }


def _reward(generation: Generation) -> float:
    if generation.reward is None:
        raise DataError(f"generation {generation.index} of prompt {generation.prompt_id} has no reward: score it first")
    return generation.reward


def _groups(generations: Sequence[Generation]) -> dict[str, list[Generation]]:
    """Per prompt, the first generation of each text that has a finite reward."""
    groups: dict[str, dict[str, Generation]] = {}
    for generation in generations:
        if math.isfinite(_reward(generation)):
            groups.setdefault(generation.prompt_id, {}).setdefault(generation.text, generation)
    if not groups:
        raise DataError(f"none of {len(generations)} generations has a finite reward: check the reward model's scores")
    return {prompt_id: list(texts.values()) for prompt_id, texts in groups.items()}


def _draw(first: Positions, size: int, count: int, rng: np.random.Generator) -> Positions:
    """Draw distinct pairs (i, j), uniform among all with `first[i] <= j < size`, without listing them.

    The allowed pairs are numbered row by row; numbers are drawn and turned back into rows and columns.
    """
    ends = np.cumsum(size - first)
    allowed = int(ends[-1]) if len(ends) else 0
    numbers = rng.choice(allowed, min(count, allowed), replace=False) if allowed else np.empty(0, dtype=np.int64)
    rows = np.searchsorted(ends, numbers, side="right")
    starts = np.concatenate([[0], ends])[rows]
    columns = numbers - starts + np.append(first, size)[rows]
    return np.stack([rows, columns], axis=1)


def _difference_quantile(groups: Sequence[Rewards], share: float) -> float:
    """By bisection on the difference, counting with sorted rewards: 10,000 rewards have 50 million differences."""
    total = sum(len(rewards) * (len(rewards) - 1) // 2 for rewards in groups)
    target = max(1, math.ceil(share * total))
    low, high = 0.0, max(float(rewards[-1] - rewards[0]) for rewards in groups)
    for _ in range(64):
        middle = (low + high) / 2
        within = 0
        for rewards in groups:
            ends = np.searchsorted(rewards, rewards + middle, side="right")
            within += int(ends.sum()) - len(rewards) * (len(rewards) + 1) // 2
        low, high = (low, middle) if within >= target else (middle, high)
    return high


def _pair(
    low: Generation,
    high: Generation,
    labels: str,
    rng: np.random.Generator,
    split: Literal["train", "validation", "test"],
) -> Pair:
    assert low.prompt_ids == high.prompt_ids, f"prompt {low.prompt_id} was read in two ways"
    two = (low, high) if rng.random() < 0.5 else (high, low)
    rewards = [_reward(response) for response in two]
    probability = _sigmoid(rewards[0] - rewards[1])
    first_wins = rng.random() < probability if labels == "bradley_terry" else rewards[0] >= rewards[1]
    return Pair(
        prompt_id=low.prompt_id,
        prompt=low.prompt,
        responses=[response.text for response in two],
        chosen=0 if first_wins else 1,
        rewards=rewards,
        probability=probability,
        prompt_ids=low.prompt_ids,
        token_ids=[response.token_ids for response in two],
        ended=[response.finish == "eos" for response in two],
        split=split,
    )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _nothing_left(groups: dict[str, list[Generation]], config: PairsConfig, bounds: Bounds, split: str) -> str:
    rewards = [_reward(response) for responses in groups.values() for response in responses]
    bound = {"margin": f" > {bounds.margin:g}", "straddle": f" of {bounds.threshold:g}"}.get(config.strategy, "")
    return (
        f"strategy {config.strategy}{bound} finds no {split} pair among {len(rewards)} different responses to "
        f"{len(groups)} prompts with rewards from {min(rewards):g} to {max(rewards):g}: change its threshold, take "
        f"another strategy or sample more responses a prompt"
    )
