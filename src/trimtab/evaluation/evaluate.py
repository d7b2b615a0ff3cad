"""From scores to the rows of the table.

Files and models stay outside: the tokenizer that texts are counted with comes in as a function.

    >>> model_names(ModelConfig(name="gpt2"), ModelConfig(name="gpt2-xl"))["tuned"]
    'gpt2 (tuned)'
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.config.evaluate import EvaluateConfig
from trimtab.config.guide import DecoderConfig, GuideConfig
from trimtab.config.models import ModelConfig
from trimtab.errors import DataError
from trimtab.evaluation import metrics
from trimtab.evaluation.coverage import (
    check_same_prompts,
    is_finite,
    scores_by_prompt,
    tokens_of_answers,
    tokens_of_equal_counts,
    too_long,
    without,
)
from trimtab.evaluation.divergence import Divergence
from trimtab.records import SET_ASIDE, Generation, Score
from trimtab.rewards.thresholds import reward_at

TUNED = " (tuned)"  # what a tuned model's name ends with


@dataclass(frozen=True)
class Cost:
    """What one decoder cost over all prompts: forward FLOPs of all models together, and wall seconds."""

    flops: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One decoder's line of the table; the fields are the columns of `table.csv`.

    Rewards and gains in the reward's own unit, `headroom`, `positive` and `distinct_n` as shares, `diversity` and
    `fluency` in nats; `new_tokens`, `flops` and `seconds` are means for one prompt. `prompts` counts the prompts
    measured, `left_out` those left out because a score on them was not finite and `set_aside` those without a
    response, because a model or a value gave no finite number for them, or because they are too long for some
    decoder's models. The latter are set aside for all decoders alike. None where a column has no meaning: an unguided
    reference has no gain over itself, and without a second judge there is none by it. `by_gold`: guided by the gold
    reward itself, an upper line and no method.
    `reward_std` is the standard deviation of the rewards (divided by n - 1), `below` the share of them below
    `threshold`; `kl` in nats a response, `kl_per_token` in nats a token, from the untuned model on the decoder's own
    responses (`evaluation.divergence`).
    """

    decoder: str
    model: str
    reward: float
    reward_low: float
    reward_high: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    headroom: float | None
    judge: float | None
    judge_gain: float | None
    judge_gain_low: float | None
    judge_gain_high: float | None
    positive: float
    diversity: float
    distinct_1: float
    distinct_2: float
    fluency: float | None
    new_tokens: float
    flops: float
    seconds: float
    prompts: int
    left_out: int
    set_aside: int = 0
    by_gold: bool = False
    reward_std: float | None = None
    threshold: float | None = None
    below: float | None = None
    kl: float | None = None
    kl_low: float | None = None
    kl_high: float | None = None
    kl_per_token: float | None = None


def summarise(
    guide: GuideConfig,
    evaluate: EvaluateConfig,
    seed: int,
    names: Mapping[str, str],
    scores: Mapping[str, list[Score]],
    generations: Mapping[str, list[Generation]],
    encode: Callable[[str], list[int]],
    costs: Mapping[str, Cost],
    divergences: Mapping[str, Divergence] | None = None,
) -> list[Row]:
    """One row for each decoder, in the experiment's order.

    `encode` is the one tokenizer that diversity and distinct-n are counted with, for every decoder: on responses cut
    to equal counts prompt by prompt or, where there are no prompts, on whole ones. A `best_of` decoder without a cost
    of its own has the cost of the decoder it picks from.

    Raises:
        DataError: a decoder lacks scores, generations or a cost, or all its prompts are set aside; or prompts differ.
    """
    excluded = too_long(generations)
    given = without(excluded, scores)
    table = {decoder.name: scores_by_prompt(decoder.name, given) for decoder in guide.decoders}
    check_same_prompts({name: list(entries) for name, entries in table.items()})
    if excluded and excluded >= set(next(iter(table.values()))):
        raise DataError(
            f"all {len(excluded)} prompts leave no room for a response in a model's context: shorten them, or lower "
            "guide.max_new_tokens"
        )
    tokens_of = tokens_of_equal_counts if guide.unprompted is None else tokens_of_answers
    tokens = tokens_of(list(table), generations, list(next(iter(table.values()))), encode)
    rows = {
        decoder.name: _row(guide, evaluate, seed, names, decoder, table, tokens[decoder.name], _cost(decoder, costs))
        for decoder in guide.decoders
    }
    for name, found in (divergences or {}).items():
        rows[name] = _with_divergence(rows[name], evaluate, seed, found)
    for decoder in guide.decoders:
        oracle, row = oracle_of(guide, decoder), rows[decoder.name]
        best_gain = rows[oracle.name].gain if oracle is not None else None
        if row.gain is not None and best_gain is not None:
            rows[decoder.name] = dataclasses.replace(row, headroom=metrics.headroom(row.gain, best_gain))
    for name, row in rows.items():
        failed = len({each.prompt_id for each in generations[name] if each.finish in SET_ASIDE} | excluded)
        left_out = row.left_out - failed
        rows[name] = dataclasses.replace(row, set_aside=failed, left_out=left_out)
    return list(rows.values())


def oracle_of(guide: GuideConfig, decoder: DecoderConfig) -> DecoderConfig | None:
    """The `best_of` decoder whose gain is the whole headroom of `decoder`; None where there is none for its model.

    Of several: the one that picks from `decoder` itself, else from as many candidates, else from the most.
    """
    source = decoder if decoder.best_of is None else guide.decoder(decoder.best_of)
    fitting = [
        (other, sampled)
        for other in guide.decoders
        if other.best_of is not None
        for sampled in [guide.decoder(other.best_of)]
        if (sampled.model, sampled.terms) == (source.model, source.terms)
    ]

    def closeness(entry: tuple[DecoderConfig, DecoderConfig]) -> tuple[bool, bool, int]:
        size = entry[1].width * entry[1].successors
        return (entry[1] == source, size == source.width * source.successors, size)

    return max(fitting, key=closeness)[0] if fitting else None


def model_names(small: ModelConfig, base: ModelConfig) -> dict[str, str]:
    """What the table calls the model of each role; the tuned one's name is the small one's with `TUNED`."""
    return {"large": base.name, "untuned": small.name, "tuned": small.name + TUNED}


def _row(
    guide: GuideConfig,
    evaluate: EvaluateConfig,
    seed: int,
    names: Mapping[str, str],
    decoder: DecoderConfig,
    table: Mapping[str, Mapping[str, Score]],
    tokens: list[list[int]],
    cost: Cost,
) -> Row:
    every = len(table[decoder.name])
    ours, theirs = _measured(guide, decoder, table)
    rewards = [score.reward for score in ours]
    judgements, reference = ([score.judge for score in each if score.judge is not None] for each in (ours, theirs))
    reward = _estimate(evaluate, seed, rewards)
    gain = _estimate(evaluate, seed, rewards, [score.reward for score in theirs]) if theirs else None
    judged = _estimate(evaluate, seed, judgements, reference) if reference else None
    threshold = _threshold(guide, evaluate, table)
    return Row(
        decoder=decoder.name,
        model=names[(decoder if decoder.best_of is None else guide.decoder(decoder.best_of)).model],
        reward=reward.mean,
        reward_low=reward.low,
        reward_high=reward.high,
        gain=gain.mean if gain else None,
        gain_low=gain.low if gain else None,
        gain_high=gain.high if gain else None,
        headroom=None,
        judge=float(np.mean(judgements)) if judgements else None,
        judge_gain=judged.mean if judged else None,
        judge_gain_low=judged.low if judged else None,
        judge_gain_high=judged.high if judged else None,
        positive=metrics.share_positive(rewards),
        diversity=metrics.token_entropy(tokens),
        distinct_1=metrics.distinct_n(tokens, 1),
        distinct_2=metrics.distinct_n(tokens, 2),
        fluency=metrics.mean_log_probability([s.log_probability for s in ours], [s.base_tokens for s in ours]),
        new_tokens=float(np.mean([score.tokens for score in ours])),
        flops=cost.flops / every,
        seconds=cost.seconds / every,
        prompts=len(ours),
        left_out=every - len(ours),
        by_gold=decoder.guided_by_gold,
        reward_std=metrics.standard_deviation(rewards),
        threshold=threshold,
        below=None if threshold is None else metrics.share_below(rewards, threshold),
    )


def _threshold(guide: GuideConfig, evaluate: EvaluateConfig, table: Mapping[str, Mapping[str, Score]]) -> float | None:
    """`evaluate.threshold` as a reward; where it is relative, to the untuned model's finite rewards."""
    threshold = evaluate.threshold
    if threshold is None or threshold.value is not None:
        return None if threshold is None else threshold.value
    untuned = next(each.name for each in guide.decoders if each.plain and each.model == "untuned")
    rewards = [score.reward for score in table[untuned].values() if math.isfinite(score.reward)]
    if not rewards:
        raise DataError(f"none of {untuned}'s rewards is finite, to which evaluate.threshold is relative: give a value")
    return reward_at(threshold, rewards)


def _with_divergence(row: Row, evaluate: EvaluateConfig, seed: int, found: Divergence) -> Row:
    """The row with how far the tuned model went; responses without finite numbers are left out."""
    kept = [(ratio, count) for ratio, count in zip(found.log_ratios, found.tokens, strict=True) if math.isfinite(ratio)]
    if not kept:
        return row
    estimate = _estimate(evaluate, seed, [ratio for ratio, _ in kept])
    per_token = metrics.mean_log_probability([ratio for ratio, _ in kept], [count for _, count in kept])
    return dataclasses.replace(
        row, kl=estimate.mean, kl_low=estimate.low, kl_high=estimate.high, kl_per_token=per_token
    )


def _measured(
    guide: GuideConfig, decoder: DecoderConfig, table: Mapping[str, Mapping[str, Score]]
) -> tuple[list[Score], list[Score]]:
    """The decoder's scores and, prompt by prompt beside them, its reference's; the latter empty for a reference.

    A prompt counts only where every number is finite on both sides, so that each mean of a row is over one set.
    """
    reference = guide.reference_of(decoder)
    ours = table[decoder.name]
    theirs = {} if reference is None or reference == decoder else table[reference.name]
    kept = [prompt for prompt in ours if is_finite(ours[prompt]) and (not theirs or is_finite(theirs[prompt]))]
    if not kept:
        every = f"all {len(ours)} prompts of decoder {decoder.name} are set aside, none has finite logits and rewards"
        raise DataError(f"{every}: set the models' dtype to float32, and check the reward")
    return [ours[prompt] for prompt in kept], [theirs[prompt] for prompt in kept if theirs]


def _estimate(
    evaluate: EvaluateConfig, seed: int, values: list[float], reference: list[float] | None = None
) -> metrics.Estimate:
    """The mean of the values, or their gain over the reference.

    Every call starts the generator anew from the run's seed: all decoders are resampled at the same prompts, and no
    decoder's interval depends on which others are there.
    """
    rng = np.random.default_rng(seed)
    resamples, confidence = evaluate.bootstrap, evaluate.confidence
    if reference is None:
        return metrics.mean_estimate(values, resamples=resamples, confidence=confidence, rng=rng)
    return metrics.paired_gain(values, reference, resamples=resamples, confidence=confidence, rng=rng)


def _cost(decoder: DecoderConfig, costs: Mapping[str, Cost]) -> Cost:
    cost = costs.get(decoder.name) or costs.get(decoder.best_of or "")
    if cost is not None:
        return cost
    raise DataError(f"decoder {decoder.name} has no cost: count its FLOPs and seconds while it decodes")
