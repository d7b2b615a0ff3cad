"""Fluency: how likely responses are under one model."""

import math
from collections.abc import Sequence

from trimtab.models.language_model import LanguageModel, sequence_log_probabilities
from trimtab.models.served_model import CompletionsModel
from trimtab.records import SET_ASIDE, Generation


def fluency_under(model: LanguageModel, generations: Sequence[Generation]) -> tuple[list[float], list[int]]:
    """log p of each response under the model in nats, and its number of tokens there.

    All responses are encoded anew in the same way, whichever model wrote them: as the model's own chat template writes
    answers, without an end token. Tokens that the model has no embedding for are left out. NaN where prompt and
    response are longer than the model's context.
    """
    vocabulary = model.vocabulary
    turns = [vocabulary.turn(generation.prompt) for generation in generations]
    texts = [generation.text for generation in generations]
    encoded = vocabulary.encode_answers(turns, texts, [False] * len(texts))
    responses = [[token for token in ids if token < model.vocab_size] for ids in encoded]
    logs = sequence_log_probabilities(model, [generation.prompt for generation in generations], responses)
    return logs, [len(response) for response in responses]


def fluency_served(model: CompletionsModel, generations: Sequence[Generation]) -> tuple[list[float], list[int]]:
    """The same under a model behind an endpoint, by its server's tokens; 0 tokens where it gives no log-probabilities.

    Raises:
        EndpointError: the server was said to give log-probabilities, and does not.
    """
    if not model.settings.log_probabilities:
        return [0.0] * len(generations), [0] * len(generations)
    answered = [response for response in generations if response.finish not in SET_ASIDE]
    measured = iter(model.log_probabilities([(response.prompt, response.text) for response in answered]))
    pairs = [(math.nan, 0) if response.finish in SET_ASIDE else next(measured) for response in generations]
    return [log for log, _ in pairs], [count for _, count in pairs]
