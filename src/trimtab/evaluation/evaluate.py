"""From scores to the rows of the table."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

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
    too_long,
    without,
)
from trimtab.evaluation.differences import Difference, differences
from trimtab.evaluation.marks import best_decoder, oracle_of, sampled_by
from trimtab.evaluation.metrics import Estimate
from trimtab.records import SET_ASIDE, Generation, Score
from trimtab.rewards.thresholds import reward_at

if TYPE_CHECKING:
    from trimtab.evaluation.divergence import Divergence

TUNED_SUFFIX = " (tuned)"
"""The end of a tuned model's name in the table."""
Table = Mapping[str, Mapping[str, Score]]
"""Scores by decoder and prompt id."""


@dataclass(frozen=True)
class Cost:
    """What one decoder cost over all prompts: forward FLOPs of all models together, and wall seconds."""

    flops: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One decoder's row of the table; the fields, and the names in `extra`, are the columns of `table.csv`.

    Rewards and gains are in the reward's own unit, `headroom`, `positive`, `below` and `distinct_n` shares,
    `diversity` and `fluency` nats; `new_tokens`, `flops` and `seconds` are means for one prompt. A field is None where
    it has no meaning: an unguided reference has no gain over itself, and without a second judge there is none by it.

    `prompts` counts the prompts measured, `left_out` those with a score that is not finite, and `set_aside` those
    without a response: because a model or a value gave no finite number, or because they are too long for some
    decoder's models (these are set aside for all decoders alike). `by_gold` marks a decoder that the gold reward
    itself guided: an upper line, not a method. `reward_std` is the standard deviation of the rewards (divided by
    n - 1), `below` the share of them below `threshold`. `kl` (nats a response) and `kl_per_token` (nats a token) are
    divergences from the untuned model on the decoder's own responses (`evaluation.divergence`). `to_best` is the reward
    minus that of the best decoder, which has none itself; `against` compares with each other decoder. `extra` holds the
    experiment's further columns (`evaluate.columns`).
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
    to_best: float | None = None
    to_best_low: float | None = None
    to_best_high: float | None = None
    against: Mapping[str, Difference] = field(default_factory=dict)
    extra: Mapping[str, float | None] = field(default_factory=dict)


def summarise(
    guide: GuideConfig,
    evaluate: EvaluateConfig,
    seed: int,
    names: Mapping[str, str],
    scores: Mapping[str, list[Score]],
    generations: Mapping[str, list[Generation]],
    encode: Callable[[str], list[int]],
    costs: Mapping[str, Cost],
    divergences: Mapping[str, "Divergence"] | None = None,
) -> list[Row]:
    """One row for each decoder, in the guide's order.

    Args:
        seed: starts the bootstrap of every interval.
        names: the table's names of the models `large`, `untuned` and `tuned`.
        scores, generations, costs: by decoder name. A `best_of` decoder without a cost has that of the decoder whose
            candidates it picks from.
        encode: the one tokenizer that diversity and distinct-n are counted with. The responses of all decoders to a
            prompt are first cut to the same number of tokens; without prompts they are counted whole.
        divergences: by decoder name, where they were measured.

    Raises:
        DataError: a decoder lacks scores, generations or a cost, or all its prompts are set aside; or prompts differ.
    """
    excluded = too_long(generations)
    counted = without(excluded, scores)
    table = {decoder.name: scores_by_prompt(decoder.name, counted) for decoder in guide.decoders}
    check_same_prompts({name: list(entries) for name, entries in table.items()})
    prompts = list(next(iter(table.values())))
    if excluded and excluded >= set(prompts):
        raise DataError(
            f"all {len(excluded)} prompts leave no room for a response in a model's context: shorten them, or lower "
            "guide.max_new_tokens"
        )
    tokens = tokens_of_answers(list(table), generations, prompts, encode)
    if guide.unprompted is None:
        tokens = metrics.equal_counts(tokens)
    threshold, estimate = _threshold(guide, evaluate, table), partial(_estimate, evaluate, seed)
    rows = {}
    for decoder in guide.decoders:
        ours, theirs = _measured(guide, decoder, table, generations)
        unanswered = {one.prompt_id for one in generations[decoder.name] if one.finish in SET_ASIDE} | excluded
        rows[decoder.name] = Row(
            decoder=decoder.name,
            model=names[sampled_by(guide, decoder).model],
            by_gold=decoder.guided_by_gold,
            **_rewards(ours, theirs, estimate, threshold),
            **_texts(ours, tokens[decoder.name]),
            **_cost(decoder, costs, len(prompts)),
            **_divergence((divergences or {}).get(decoder.name), estimate),
            prompts=len(ours),
            left_out=len(prompts) - len(ours) - len(unanswered),
            set_aside=len(unanswered),
            headroom=None,  # replaced below: it needs the rows of all decoders
        )
    return _compared(
        guide, rows, differences(counted, resamples=evaluate.bootstrap, confidence=evaluate.confidence, seed=seed)
    )


def _compared(guide: GuideConfig, rows: Mapping[str, Row], found: Mapping[str, Mapping[str, Difference]]) -> list[Row]:
    """The rows with what compares them with others."""
    best = best_decoder(guide, {name: row.reward for name, row in rows.items()})
    return [
        dataclasses.replace(
            row,
            headroom=_headroom(guide, guide.decoder(name), rows),
            against=found[name],
            **_interval("to_best", found[name][best].reward if best is not None and best in found[name] else None),
        )
        for name, row in rows.items()
    ]


def _headroom(guide: GuideConfig, decoder: DecoderConfig, rows: Mapping[str, Row]) -> float | None:
    """The share of its oracle's gain that a decoder reaches; None where one of the two has no gain."""
    gain, oracle = rows[decoder.name].gain, oracle_of(guide, decoder)
    best_gain = None if oracle is None else rows[oracle.name].gain
    return None if gain is None or best_gain is None else metrics.headroom(gain, best_gain)


def model_names(small: ModelConfig, base: ModelConfig) -> dict[str, str]:
    """What the table calls the model of each role; the tuned one's name is the small one's with `TUNED_SUFFIX`.

    >>> model_names(ModelConfig(name="gpt2"), ModelConfig(name="gpt2-xl"))["tuned"]
    'gpt2 (tuned)'
    """
    return {"large": base.name, "untuned": small.name, "tuned": small.name + TUNED_SUFFIX}


def _rewards(
    ours: list[Score], theirs: list[Score], estimate: Callable[..., Estimate], threshold: float | None
) -> dict[str, Any]:
    """The fields of a row that rewards and judgements give."""
    rewards, reference = [score.reward for score in ours], [score.reward for score in theirs]
    judged, judged_reference = ([s.judge for s in scores if s.judge is not None] for scores in (ours, theirs))
    return {
        **_interval("reward", estimate(rewards)),
        **_interval("gain", estimate(rewards, reference) if theirs else None),
        "judge": float(np.mean(judged)) if judged else None,
        **_interval("judge_gain", estimate(judged, judged_reference) if judged_reference else None),
        "positive": metrics.share_positive(rewards),
        "reward_std": metrics.standard_deviation(rewards),
        "threshold": threshold,
        "below": None if threshold is None else metrics.share_below(rewards, threshold),
    }


def _texts(ours: list[Score], tokens: list[list[int]]) -> dict[str, Any]:
    """The fields of a row that describe its responses."""
    return {
        "diversity": metrics.token_entropy(tokens),
        "distinct_1": metrics.distinct_n(tokens, 1),
        "distinct_2": metrics.distinct_n(tokens, 2),
        "fluency": metrics.mean_log_probability([s.log_probability for s in ours], [s.base_tokens for s in ours]),
        "new_tokens": float(np.mean([score.tokens for score in ours])),
    }


def _cost(decoder: DecoderConfig, costs: Mapping[str, Cost], prompts: int) -> dict[str, Any]:
    cost = costs.get(decoder.name) or costs.get(decoder.best_of or "")
    if cost is None:
        raise DataError(f"decoder {decoder.name} has no cost: count its FLOPs and seconds while it decodes")
    return {"flops": cost.flops / prompts, "seconds": cost.seconds / prompts}


def _divergence(divergence: "Divergence | None", estimate: Callable[..., Estimate]) -> dict[str, Any]:
    """The divergence over the responses that have finite numbers."""
    pairs = [] if divergence is None else zip(divergence.log_ratios, divergence.tokens, strict=True)
    kept = [(ratio, count) for ratio, count in pairs if math.isfinite(ratio)]
    if not kept:
        return {}
    ratios, counts = map(list, zip(*kept, strict=True))
    return {**_interval("kl", estimate(ratios)), "kl_per_token": metrics.mean_log_probability(ratios, counts)}


def _interval(name: str, estimate: Estimate | None) -> dict[str, Any]:
    mean, low, high = estimate or (None, None, None)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _threshold(guide: GuideConfig, evaluate: EvaluateConfig, table: Table) -> float | None:
    """`evaluate.threshold` as a reward; a relative one is relative to the untuned model's finite rewards."""
    threshold = evaluate.threshold
    if threshold is None or threshold.value is not None:
        return None if threshold is None else threshold.value
    untuned = next(decoder.name for decoder in guide.decoders if decoder.plain and decoder.model == "untuned")
    rewards = [score.reward for score in table[untuned].values() if math.isfinite(score.reward)]
    if not rewards:
        raise DataError(f"none of {untuned}'s rewards is finite, to which evaluate.threshold is relative: give a value")
    return reward_at(threshold, rewards)


def _measured(
    guide: GuideConfig, decoder: DecoderConfig, table: Table, generations: Mapping[str, list[Generation]]
) -> tuple[list[Score], list[Score]]:
    """The decoder's scores and, prompt by prompt, its reference's; the latter is empty for a reference.

    A prompt counts only where every number is finite on both sides, so that each mean of a row is over one set.
    """
    reference = guide.reference_of(decoder)
    ours = table[decoder.name]
    theirs = {} if reference is None or reference == decoder else table[reference.name]
    kept = [prompt for prompt in ours if is_finite(ours[prompt]) and (not theirs or is_finite(theirs[prompt]))]
    if not kept:
        names = [decoder.name, *([] if reference is None else [reference.name])]
        models = {"failed", "unvalued"} & {one.finish for name in names for one in generations[name]}
        why = "none has finite logits and rewards: set the models' dtype to float32, and check the reward"
        why = why if models else "the reward gave none of them a finite number: mend the reward"
        raise DataError(f"all {len(ours)} prompts of decoder {decoder.name} are set aside, {why}")
    return [ours[prompt] for prompt in kept], [theirs[prompt] for prompt in kept if theirs]


def _estimate(
    evaluate: EvaluateConfig, seed: int, values: list[float], reference: list[float] | None = None
) -> Estimate:
    """The mean of the values, or their gain over the reference.

    Every call starts the generator anew from the seed: all decoders are resampled at the same prompts, and no
    decoder's interval depends on which others there are.
    """
    settings: dict[str, Any] = {"resamples": evaluate.bootstrap, "confidence": evaluate.confidence}
    rng = np.random.default_rng(seed)
    if reference is None:
        return metrics.mean_estimate(values, rng=rng, **settings)
    return metrics.paired_gain(values, reference, rng=rng, **settings)
