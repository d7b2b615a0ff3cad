"""How likely texts are under one model: what fluency is measured by.

Knows nothing of decoders.

    >>> logs, counts = fluency_under(model, generations)                                # doctest: +SKIP
"""

from collections.abc import Sequence

from trimtab.models.completions import CompletionsModel
from trimtab.models.language_model import LanguageModel, sequence_log_probabilities
from trimtab.records import Generation


def fluency_under(model: LanguageModel, generations: Sequence[Generation]) -> tuple[list[float], list[int]]:
    """log p of each response under the model in nats, and its number of tokens there.

    Responses are encoded anew, all in the same way, whichever model wrote them: as the model's own chat template writes
    answers, without what ends them.
    """
    vocabulary = model.vocabulary
    turns = [vocabulary.turn(generation.prompt) for generation in generations]
    texts = [generation.text for generation in generations]
    responses = vocabulary.encode_answers(turns, texts, [False] * len(texts))
    logs = sequence_log_probabilities(model, [generation.prompt for generation in generations], responses)
    return logs, [len(response) for response in responses]


def fluency_served(model: CompletionsModel, generations: Sequence[Generation]) -> tuple[list[float], list[int]]:
    """The same under a model behind an endpoint, as its server splits texts; 0 tokens where it is not asked for them.

    Raises:
        EndpointError: the server was said to give log-probabilities, and does not.
    """
    if not model.settings.log_probabilities:
        return [0.0] * len(generations), [0] * len(generations)
    found = [model.log_probability(each.prompt, each.text) for each in generations]
    return [log for log, _ in found], [count for _, count in found]
