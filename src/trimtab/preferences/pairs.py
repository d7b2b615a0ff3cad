"""Pairs of scored generations: grouping by prompt, thresholds, labels, and the order within a pair.

Which two responses meet is a strategy's choice. Knows nothing of models, texts' meaning or files.

    >>> pairs = make_pairs(generations, PairsConfig(strategy="best_worst"), seed=0)     # doctest: +SKIP
    >>> pairs[0].rewards                                                                # doctest: +SKIP
    [2.1, -0.3]
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from trimtab.config.pairs import PairsConfig
from trimtab.errors import ConfigurationError, DataError, shown
from trimtab.plugins.user_errors import fault_in
from trimtab.preferences.bins import Positions, Rewards, count_bins
from trimtab.preferences.strategies import STRATEGIES, Bounds, Strategy
from trimtab.records import Generation, Pair
from trimtab.rewards.thresholds import reward_at


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
    sigmoid(r0 - r1) that response 0 wins; `argmax` lets the higher reward win; a strategy that `decides_winner` says
    itself who wins. Which response stands first is random.
    What is drawn for a prompt depends on `seed` and the prompt's id, not on the other prompts.

    `bounds` are `resolve_bounds` of the training generations where other splits are to share them; by default they
    are those of `generations`.

    Raises:
        DataError: a generation has no reward, or no pair satisfies the strategy.
        ConfigurationError: a plug-in's strategy fails, or gives no pairs of positions.
    """
    strategy, groups = STRATEGIES[config.strategy], _groups(generations)
    if bounds is None:
        bounds = resolve_bounds(generations, config)
    count = config.total if len(groups) == 1 and config.total is not None else config.per_prompt
    labels = "second" if strategy.decides_winner else config.labels
    pairs: list[Pair] = []
    for prompt_id, responses in groups.items():
        rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "little")])
        ordered = sorted(responses, key=_reward)
        rewards = np.array([_reward(response) for response in ordered], dtype=np.float64)
        for low, high in _positions(strategy, rewards, bounds, count, rng):
            pairs.append(_pair(ordered[low], ordered[high], labels, rng, split))
    if not pairs:
        raise DataError(_nothing_left(groups, config, bounds, split))
    if config.total is not None and len(pairs) > config.total:
        kept = np.sort(np.random.default_rng(seed).choice(len(pairs), config.total, replace=False))
        pairs = [pairs[index] for index in kept]
    return pairs


def resolve_bounds(generations: Sequence[Generation], config: PairsConfig) -> Bounds:
    """The thresholds of `config` as rewards.

    Each is one of all finite rewards (see `reward_at`), but for the quantile and the deviations of `margin`: the
    former is one of the differences of all two distinct responses to one prompt (the least difference that has this
    share at or below it), the latter so many standard deviations.

    Raises:
        DataError: a generation has no reward, none is finite, or `low` is not below `high` where bins are asked for.
    """
    groups, uses = _groups(generations), STRATEGIES[config.strategy].uses
    everything = np.array([reward for each in generations if math.isfinite(reward := _reward(each))])
    margin, bins = config.margin.value, None
    if config.margin.deviations is not None:
        margin = config.margin.deviations * float(np.std(everything))
    elif margin is None:
        # The one quantile that takes work is taken only where it is used.
        rewards = [np.sort(np.array([_reward(each) for each in responses])) for responses in groups.values()]
        share = float(config.margin.quantile or 0.0)
        margin = _difference_quantile(rewards, share) if "margin" in uses else 0.0
    if "bins" in uses:
        low, high = reward_at(config.low, everything), reward_at(config.high, everything)
        if not low < high:
            raise DataError(f"pairs.low is a reward of {low:g} and pairs.high one of {high:g}: give low below high")
        distinct = np.array([_reward(each) for responses in groups.values() for each in responses])
        bins = count_bins(distinct, low, high, config.bins)
    return Bounds(margin=margin, threshold=reward_at(config.threshold, everything), bins=bins)


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


def _positions(strategy: Strategy, rewards: Rewards, bounds: Bounds, count: int, rng: np.random.Generator) -> Positions:
    """The pairs that a strategy gives; those of a plug-in are checked."""
    if strategy.own:
        return np.asarray(strategy.function(rewards, bounds, count, rng))
    try:
        pairs = np.asarray(strategy.function(rewards, bounds, count, rng))
    except Exception as error:
        raise ConfigurationError(f"the strategy {strategy.name} failed {fault_in(error)}: mend it") from error
    if pairs.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    fits = pairs.ndim == 2 and pairs.shape[1] == 2 and len(pairs) <= count and np.issubdtype(pairs.dtype, np.integer)
    if not fits or pairs.min() < 0 or pairs.max() >= len(rewards) or (pairs[:, 0] == pairs[:, 1]).any():
        raise ConfigurationError(
            f"the strategy {strategy.name} gives {shown(pairs.tolist())} for {len(rewards)} rewards: give at most "
            f"{count} pairs of two different positions, whole numbers from 0"
        )
    return pairs


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
    first_wins = rewards[0] >= rewards[1]
    if labels == "bradley_terry":
        first_wins = rng.random() < probability
    elif labels == "second":
        first_wins = two[0] is high
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
    uses = STRATEGIES[config.strategy].uses
    bound = f" > {bounds.margin:g}" if "margin" in uses else ""
    bound += f" of {bounds.threshold:g}" if "threshold" in uses else ""
    if bounds.bins is not None:
        bound += f" in {len(bounds.bins.counts)} bins from {bounds.bins.edges[0]:g} to {bounds.bins.edges[-1]:g}"
    return (
        f"strategy {config.strategy}{bound} finds no {split} pair among {len(rewards)} different responses to "
        f"{len(groups)} prompts with rewards from {min(rewards):g} to {max(rewards):g}: change its threshold, take "
        f"another strategy or sample more responses a prompt"
    )
