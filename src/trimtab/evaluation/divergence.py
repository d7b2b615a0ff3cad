"""How far a tuned model went from its untuned self: their log-ratio on the tuned model's own responses.

The mean over responses y ~ p_tuned of log p_tuned(y|x) - log p_untuned(y|x) estimates KL(p_tuned || p_untuned), in nats
a response. It is exact in expectation where y is drawn at temperature 1 without filters; with top-k or top-p it is the
mean log-ratio of the whole distributions over what those filters let through.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.models.language_model import LanguageModel
from trimtab.records import SET_ASIDE, Generation, Prompt
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.value import ImplicitValue

BATCH_ROWS = 64  # responses read together


@dataclass(frozen=True)
class Divergence:
    """log p_tuned - log p_untuned of each response in nats, and how many tokens it has (an end token included)."""

    log_ratios: list[float]
    tokens: list[int]


def divergence(
    responses: Sequence[Generation],
    tuned: LanguageModel,
    untuned: LanguageModel,
    advance: Callable[[int, int], None],
) -> Divergence:
    """The log-ratios of the tuned model's responses, by the ids that it sampled; those set aside are left out.

    `advance` is told how many responses of how many are done.
    """
    value = ImplicitValue(tuned, untuned, tuned)
    kept = [response for response in responses if response.finish not in SET_ASIDE]
    prompts = [Prompt(response.prompt_id, response.prompt) for response in kept]
    # the untuned model may see prompts in another template, and have no room for one
    fitting = [n for n, prompt in enumerate(prompts) if value.too_long(prompt, len(kept[n].token_ids)) is None]
    ratios = [math.nan] * len(kept)
    for start in range(0, len(fitting), BATCH_ROWS):
        group = fitting[start : start + BATCH_ROWS]
        # caches grow as needed: room for the longest response may be more than a long prompt leaves
        state = value.start([prompts[n] for n in group], 0)
        candidates = [
            Hypothesis(prompts[n], kept[n].prompt_ids, kept[n].token_ids, kept[n].text, kept[n].finish) for n in group
        ]
        for n, ratio in zip(group, value.advance(state, range(len(group)), candidates)[1], strict=True):
            ratios[n] = ratio
        advance(start + len(group), len(fitting))
    return Divergence(ratios, [len(response.token_ids) for response in kept])
