"""Log-probabilities of given texts under a language model, and whether greedy decoding would write them, for
lm-evaluation-harness.

Texts are split into tokens as the harness' own transformers model (`HFLM`) splits them, and lose the same tokens where
they are longer than the context.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch

from trimtab.config.fields import CHAT, fill
from trimtab.errors import ModelError
from trimtab.models.language_model import LanguageModel, check_ids
from trimtab.records import PromptInput

TEXTS_AT_ONCE = 32  # texts that are read together
DEFAULT_WINDOW = 2048  # tokens of a text read at once by a model without a limit on positions


Continuation: TypeAlias = tuple[PromptInput | None, list[int]]
"""A context (None: only the start token), and the ids of its continuation."""


def likelihoods(model: LanguageModel, pairs: Sequence[tuple[PromptInput, str]]) -> list[tuple[float, bool]]:
    """log p(continuation | context) in nats of each (context, continuation), and whether greedy decoding writes it.

    White space at the end of a context belongs to the continuation, and plain text is encoded together with its
    context. An empty context is the start token, or the end token where there is none. A context that is too
    long loses its first tokens.

    Raises:
        ModelError: a continuation has no token, or more than the context holds.
    """
    texts = [_split(model, context, continuation) for context, continuation in pairs]
    for (_, continuation), (_, ids) in zip(pairs, texts, strict=True):
        if not 0 < len(ids) <= model.context:
            raise ModelError(
                f"the continuation {continuation[:40]!r} has {len(ids)} tokens, and {model.name} reads "
                f"{model.context}: give one that is not empty, and shorter"
            )
    results = [(0.0, True)] * len(pairs)
    for batch in _batches([(len(ids), context is None) for context, ids in texts]):
        for index, result in zip(batch, _stepwise(model, [texts[index] for index in batch]), strict=True):
            results[index] = result
    return results


def rolling_likelihoods(model: LanguageModel, texts: Sequence[str]) -> list[float]:
    """log p of each whole text in nats, given the start token, or the end token where there is none.

    A text that is longer than the model's context is read in windows: each token is predicted once, and the last
    window is a full one.
    """
    size = DEFAULT_WINDOW if model.context == sys.maxsize else model.context
    start, tokenizer = _start_id(model), model.vocabulary.tokenizer
    encoded = [[int(token) for token in tokenizer.encode(text)] for text in texts]
    windows = [(index, *window) for index, ids in enumerate(encoded) for window in _windows([start, *ids], size)]
    sums = [0.0] * len(texts)
    for batch in _batches([len(predicted) for _, _, predicted in windows]):
        indices, contexts, predicted = zip(*(windows[index] for index in batch), strict=True)
        state = model.start_ids(contexts, room=len(predicted[0]) - 1)
        _, logs = model.score(state, range(len(batch)), list(map(len, state.ids)), predicted)
        for index, row in zip(indices, logs, strict=True):
            sums[index] += sum(row)
    return sums


def _split(model: LanguageModel, context: PromptInput, text: str) -> Continuation:
    """The context and the ids of `text`, its continuation.

    Plain text is encoded together with its context, and the ids beyond those of the context are the continuation's.
    White space at the end of the context moves to the continuation. Behind a conversation, `text` is encoded alone.
    """
    vocabulary, template = model.vocabulary, model.template
    if isinstance(context, list) or template == CHAT:
        return context, vocabulary.encode_response(text)
    if template.endswith("{prompt}"):
        stripped = context.rstrip()
        context, text = stripped, context[len(stripped) :] + text
    prefix = fill(template, prompt=context)
    if not prefix:
        ids = [int(token) for token in vocabulary.tokenizer.encode(text, add_special_tokens=False)]
        return None, ids[1:] if len(ids) > 1 and ids[0] == _start_id(model) else ids
    together = vocabulary.encode_prompt(prefix + text, "{prompt}")
    ids = together[len(vocabulary.encode_prompt(prefix, "{prompt}")) :]
    # both together may have no more tokens than the context alone
    return context, ids or vocabulary.encode_response(text)


def _start_id(model: LanguageModel) -> int:
    """The token in front of a text without context."""
    vocabulary = model.vocabulary
    has_start = vocabulary.start_token is not None or vocabulary.tokenizer.bos_token_id is not None
    return vocabulary.start_id if has_start else vocabulary.end_id


def _windows(ids: list[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Pairs of context ids and the ids to predict after them, at most `size` + 1 together."""
    for first in range(1, len(ids), size):
        end = min(first + size, len(ids))
        yield ids[max(0, end - size - 1) : first], ids[first:end]


def _batches(keys: Sequence[Any]) -> Iterator[list[int]]:
    """Batches of the indices of equal keys, at most `TEXTS_AT_ONCE` in each."""
    for key in dict.fromkeys(keys):
        indices = [index for index, other in enumerate(keys) if other == key]
        for first in range(0, len(indices), TEXTS_AT_ONCE):
            yield indices[first : first + TEXTS_AT_ONCE]


@torch.inference_mode()
def _stepwise(model: LanguageModel, texts: Sequence[Continuation]) -> list[tuple[float, bool]]:
    """`likelihoods` of continuations of the same length, which all have a context or all have none."""
    rows = [ids for _, ids in texts]
    check_ids(model.name, model.vocabulary, model.vocab_size, rows)
    contexts = [context for context, _ in texts if context is not None]
    room = len(rows[0]) - 1  # the last token is predicted and never read
    starts = [[_start_id(model)]] * len(texts)
    state = model.start(contexts, room, truncate=True) if contexts else model.start_ids(starts, room)
    results = [(0.0, True)] * len(texts)
    for ids in map(list, zip(*rows, strict=True)):
        logits = model.next_logits(state)
        logs = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
        tokens = torch.tensor(ids, device=logs.device)
        values = logs.gather(1, tokens[:, None]).flatten().tolist()
        greedy = (logs.argmax(-1) == tokens).tolist()
        results = [(a + b, c and d) for (a, c), b, d in zip(results, values, greedy, strict=True)]
        state.append(ids)
    return results
