"""Pairs of scored generations: grouping by prompt, thresholds, labels, and the order within a pair.

Which two responses meet is a strategy's choice.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np

from trimtab.config.pairs import PairsConfig
from trimtab.errors import ConfigurationError, DataError, check_count, check_type, shown
from trimtab.preferences.strategies import STRATEGIES, Bounds, Rewards, Strategy, count_bins
from trimtab.records import Generation, Pair, Split
from trimtab.rewards.thresholds import reward_at


def make_pairs(
    generations: Sequence[Generation],
    config: PairsConfig,
    seed: int,
    split: Split = "train",
    bounds: Bounds | None = None,
) -> list[Pair]:
    """Pairs of the scored `generations`, prompt by prompt in their order of appearance.

    Of equal responses to a prompt only the first counts; rewards that are not finite are left out. A prompt gives at
    most `config.per_prompt` pairs, or `config.total` where all generations share one prompt; with several prompts
    `total` caps the number of all pairs. Bradley-Terry labels are drawn with probability sigmoid(r0 - r1) that
    response 0 wins; `argmax` lets the higher reward win; a strategy that `decides_winner` has no use for labels. Which
    response stands first is random. What is drawn for a prompt depends on `seed` and its id, not on other prompts.

    `bounds` are by default `resolve_bounds` of `generations`; give those of the training generations to share them.

    Raises:
        DataError: a generation has no reward, or no pair satisfies the strategy.
        ConfigurationError: an argument is of another type; a plug-in's strategy fails, or gives no pairs of positions.
    """
    check_type("generations", generations, Sequence, "a list of trimtab's generations")
    for generation in generations:
        check_type("generations", generation, Generation, "records of the type Generation of trimtab.records")
    check_type("config", config, PairsConfig, "a PairsConfig of trimtab.config.pairs")
    check_count("seed", seed, 0)
    if split not in get_args(Split):
        raise ConfigurationError(f"split is {shown(split)}: give {', '.join(get_args(Split))}")
    groups, strategy = _groups(generations), STRATEGIES[config.strategy]
    if bounds is None:
        bounds = resolve_bounds(generations, config)
    count = config.total if len(groups) == 1 and config.total is not None else config.per_prompt
    labels = "second" if strategy.decides_winner else config.labels
    pairs: list[Pair] = []
    for prompt_id, responses in groups.items():
        rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "little")])
        ordered = sorted(responses, key=_reward)
        rewards = np.array([_reward(response) for response in ordered], dtype=np.float64)
        for low, high in strategy.draw(rewards, bounds, count, rng):
            pairs.append(_pair(ordered[low], ordered[high], labels, rng, split))
    if not pairs:
        raise DataError(_nothing_left(groups, strategy, bounds, split))
    if config.total is not None and len(pairs) > config.total:
        kept = np.sort(np.random.default_rng(seed).choice(len(pairs), config.total, replace=False))
        pairs = [pairs[index] for index in kept]
    return pairs


def resolve_bounds(generations: Sequence[Generation], config: PairsConfig) -> Bounds:
    """The thresholds of `config` as rewards.

    Each is taken among all finite rewards (see `reward_at`). Only `margin` is a difference: as a quantile, the least
    difference between two distinct responses to one prompt that has this share at or below it; as deviations, so many
    standard deviations.

    Raises:
        DataError: a generation has no reward, none is finite, or `low` is not below `high` where bins are used.
    """
    groups, uses = _groups(generations), STRATEGIES[config.strategy].uses
    rewards = np.array([reward for reward in map(_reward, generations) if math.isfinite(reward)])
    distinct = [np.array(list(map(_reward, responses))) for responses in groups.values()]
    margin, bins = config.margin.value, None
    if config.margin.deviations is not None:
        margin = config.margin.deviations * float(np.std(rewards))
    elif margin is None:  # the one quantile that takes work is taken only where it is used
        share = float(config.margin.quantile or 0.0)
        margin = _difference_quantile([np.sort(group) for group in distinct], share) if "margin" in uses else 0.0
    if "bins" in uses:
        low, high = reward_at(config.low, rewards), reward_at(config.high, rewards)
        if not low < high:
            raise DataError(f"pairs.low is a reward of {low:g} and pairs.high one of {high:g}: give low below high")
        bins = count_bins(np.concatenate(distinct), low, high, config.bins)
    return Bounds(margin=margin, threshold=reward_at(config.threshold, rewards), bins=bins)


def summarize(pairs: Iterable[Pair]) -> dict[str, float | int | None]:
    """Number of pairs and prompts, mean absolute reward difference, and the share of labels that name the response
    of the higher reward. The last two leave out pairs without rewards or with equal ones, and are None where no pair
    is left."""
    pairs = list(pairs)
    scored = [(pair.rewards[pair.chosen], pair.rewards[1 - pair.chosen]) for pair in pairs if pair.rewards]
    agrees = [chosen > rejected for chosen, rejected in scored if chosen != rejected]
    return {
        "pairs": len(pairs),
        "prompts": len({pair.prompt_id for pair in pairs}),
        "mean_margin": float(np.mean([abs(chosen - rejected) for chosen, rejected in scored])) if scored else None,
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
        raise DataError(
            f"none of {len(generations)} generations has a finite reward: mend the reward, which gave NaN or infinity"
        )
    return {prompt_id: list(texts.values()) for prompt_id, texts in groups.items()}


def _difference_quantile(groups: Sequence[Rewards], share: float) -> float:
    """A quantile of all differences in a group, found by bisection: 10,000 rewards have 50 million differences."""
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


def _pair(low: Generation, high: Generation, labels: str, rng: np.random.Generator, split: Split) -> Pair:
    """The pair of two responses. `labels` is `argmax`, `bradley_terry`, or `second`: `high` wins."""
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


def _nothing_left(groups: dict[str, list[Generation]], strategy: Strategy, bounds: Bounds, split: str) -> str:
    rewards = [_reward(response) for responses in groups.values() for response in responses]
    bound = f" > {bounds.margin:g}" if "margin" in strategy.uses else ""
    bound += f" of {bounds.threshold:g}" if "threshold" in strategy.uses else ""
    if bounds.bins is not None:
        bound += f" in {len(bounds.bins.counts)} bins from {bounds.bins.edges[0]:g} to {bounds.bins.edges[-1]:g}"
    return (
        f"strategy {strategy.name}{bound} finds no {split} pair among {len(rewards)} different responses to "
        f"{len(groups)} prompts with rewards from {min(rewards):g} to {max(rewards):g}: change its threshold, take "
        f"another strategy or sample more responses a prompt"
    )
