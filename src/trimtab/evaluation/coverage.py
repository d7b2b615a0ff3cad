"""Which prompts each decoder answered: the checks that make decoders comparable, and the prompts that do not count.

A decoder's answer to a prompt is its generation of lowest index; its other generations are candidates that it did not
choose.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from trimtab.errors import DataError
from trimtab.records import SET_ASIDE, Generation, Score


@dataclass(frozen=True)
class SetAside:
    """A prompt that does not count for a decoder, and why."""

    decoder: str
    prompt_id: str
    why: str


def too_long(generations: Mapping[str, Sequence[Generation]]) -> frozenset[str]:
    """The prompts that leave no room for a response in a context of some decoder, from the decoders' generations.

    They count for none of the decoders, so that all are measured on the same prompts.
    """
    return frozenset(one.prompt_id for entries in generations.values() for one in entries if one.finish == "too_long")


def without(prompts: Collection[str], scores: Mapping[str, Sequence[Score]]) -> dict[str, list[Score]]:
    """The decoders' scores, with NaN as the reward of these prompts."""
    return {
        decoder: [
            dataclasses.replace(score, reward=math.nan) if score.prompt_id in prompts else score for score in entries
        ]
        for decoder, entries in scores.items()
    }


def set_aside(
    decoder: str, generations: Sequence[Generation], scores: Sequence[Score], excluded: Collection[str] = ()
) -> list[SetAside]:
    """The decoder's prompts that have no finite logits, reward, judgement or fluency, in the order of `scores`.

    `excluded` are further ones, too long for another decoder.
    """
    reasons = dict.fromkeys(excluded, "it is too long for another decoder")
    reasons |= {one.prompt_id: SET_ASIDE[one.finish] for one in generations if one.finish in SET_ASIDE}
    for score in scores:
        wrong = [f"its {name} is {number}" for name, number in _numbers(score).items() if not math.isfinite(number)]
        if wrong:
            reasons.setdefault(score.prompt_id, " and ".join(wrong))
    prompts = [score.prompt_id for score in scores if score.prompt_id in reasons]
    return [SetAside(decoder, prompt, reasons[prompt]) for prompt in prompts]


def is_finite(score: Score) -> bool:
    """Whether all numbers that a score has are finite."""
    return all(map(math.isfinite, _numbers(score).values()))


def _numbers(score: Score) -> dict[str, float]:
    numbers = {"reward": score.reward, "judgement": score.judge, "log-probability": score.log_probability}
    return {name: number for name, number in numbers.items() if number is not None}


def answers(generations: Sequence[Generation]) -> list[Generation]:
    """Each prompt's generation of lowest index, prompts in the order of their first appearance."""
    first: dict[str, Generation] = {}
    for generation in generations:
        kept = first.setdefault(generation.prompt_id, generation)
        if generation.index < kept.index:
            first[generation.prompt_id] = generation
    return list(first.values())


def scores_by_prompt(decoder: str, scores: Mapping[str, list[Score]]) -> dict[str, Score]:
    """The decoder's scores by prompt id.

    Raises:
        DataError: it has none, or two for one prompt.
    """
    if not scores.get(decoder):
        raise DataError(f"decoder {decoder} has no scores: score it first, or drop it from guide.decoders")
    entries = {score.prompt_id: score for score in scores[decoder]}
    if len(entries) < len(scores[decoder]):
        raise DataError(f"decoder {decoder} has more than one score for a prompt: give one for each")
    return entries


def check_same_prompts(prompts: Mapping[str, Sequence[str]]) -> None:
    """Check that all decoders cover the same prompt ids, in any order.

    >>> check_same_prompts({"base": ["a", "b"], "bon-4": ["b", "a"]})

    Raises:
        DataError: two differ; the message names both and the first prompts.
    """
    first, *others = prompts
    for other in others:
        differing = sorted(set(prompts[first]) ^ set(prompts[other]))
        if differing:
            shown = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
            raise DataError(
                f"decoders {first} and {other} cover different prompts ({len(differing)} differ: {shown}): "
                "decode the same prompts with both"
            )


def tokens_of_answers(
    decoders: Sequence[str],
    generations: Mapping[str, Sequence[Generation]],
    prompts: Sequence[str],
    encode: Callable[[str], list[int]],
) -> dict[str, list[list[int]]]:
    """Each decoder's answers in the order of `prompts`, encoded.

    Raises:
        DataError: a decoder's generations are not of these prompts.
    """
    tokens = {}
    for decoder in decoders:
        texts = {answer.prompt_id: answer.text for answer in answers(generations.get(decoder, []))}
        if set(texts) != set(prompts):
            raise DataError(f"the generations of decoder {decoder} are not those that were scored: score them again")
        tokens[decoder] = [encode(texts[prompt]) for prompt in prompts]
    return tokens
