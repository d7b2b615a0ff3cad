"""From generations to scores: reward, judgement and fluency of each decoder's answers.

>>> from trimtab.rewards.function import FunctionReward
>>> written = Generation("p0", "I really", 0, [], [7, 8, 9], " liked it!", "length")
>>> gold = FunctionReward(lambda texts: [text.count("!") for text in texts])
>>> score_decoder("base", [written], gold, None, lambda chosen: ([-6.0], [3]))[0].reward
1.0
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trimtab.evaluation.coverage import answers
from trimtab.records import SET_ASIDE, Generation, Score
from trimtab.rewards.reward_values import warn_if_none_is_scored

if TYPE_CHECKING:
    from trimtab.rewards.reward import Reward

Fluency = Callable[[Sequence[Generation]], tuple[list[float], list[int]]]
"""Log-probabilities of generations in nats, each summed over its tokens, and the numbers of these tokens."""


def score_decoder(
    decoder: str, generations: Sequence[Generation], gold: "Reward", judge: "Reward | None", fluency: Fluency
) -> list[Score]:
    """Score the decoder's answer to each prompt, which is its generation of lowest index.

    Without a `judge` there are no judgements. `fluency` gives for each generation its log-probability in nats under
    the unguided base, summed over its tokens, and the number of those tokens, 0 where they are not known. The reward
    of a prompt that was set aside is NaN.
    """
    chosen = answers(generations)
    prompts, texts = [answer.prompt for answer in chosen], [answer.text for answer in chosen]
    rewards = gold.score(prompts, texts)
    answered = [index for index, answer in enumerate(chosen) if answer.finish not in SET_ASIDE]
    warn_if_none_is_scored(gold, [texts[index] for index in answered], [rewards[index] for index in answered])
    judgements: Sequence[float | None] = [None] * len(texts)
    if judge is not None:
        judgements = judge.score(prompts, texts)
    golds = [math.nan if answer.finish in SET_ASIDE else reward for answer, reward in zip(chosen, rewards, strict=True)]
    log_probabilities, counts = fluency(chosen)
    columns = zip(chosen, golds, judgements, log_probabilities, counts, strict=True)
    return [
        Score(decoder, answer.prompt_id, reward, judgement, log_probability, count, answer.length)
        for answer, reward, judgement, log_probability, count in columns
    ]


def best_of(generations: Sequence[Generation], gold: "Reward") -> list[Generation]:
    """Each prompt's candidate of highest finite gold reward, with `reward` filled in; of equals the lowest index."""
    prompts, texts = [candidate.prompt for candidate in generations], [candidate.text for candidate in generations]
    rewards = gold.score(prompts, texts)
    candidates: dict[str, list[Generation]] = {}
    for generation, reward in zip(generations, rewards, strict=True):
        candidates.setdefault(generation.prompt_id, []).append(dataclasses.replace(generation, reward=reward))
    return [max(entries, key=_rank) for entries in candidates.values()]


def _rank(candidate: Generation) -> tuple[float, int]:
    assert candidate.reward is not None
    return (candidate.reward if math.isfinite(candidate.reward) else -math.inf, -candidate.index)
