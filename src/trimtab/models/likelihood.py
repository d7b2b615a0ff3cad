"""How likely a language model finds given texts, with what lm-evaluation-harness asks besides: is each token greedy?

Texts are split into tokens as the harness' own transformers model (`HFLM`) splits them, and lose the same tokens where
they are longer than the context.

    >>> likelihoods(model, [("I really", " liked it")])                                 # doctest: +SKIP
    [(-5.31, False)]
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.config.fields import CHAT, fill
from trimtab.errors import ModelError
from trimtab.models.language_model import LanguageModel, check_ids
from trimtab.records import PromptInput

BATCH = 32  # rows read together
WINDOW = 2048  # tokens of a text read at once by a model that counts no positions


@dataclass(frozen=True)
class Continued:
    """The ids of a continuation, behind a context that each model reads in its own template; None: behind the token
    that begins texts."""

    context: PromptInput | None
    ids: list[int]


def likelihoods(model: LanguageModel, pairs: Sequence[tuple[PromptInput, str]]) -> list[tuple[float, bool]]:
    """log p(continuation | context) in nats of each (context, continuation), and whether greedy decoding writes it.

    White space that ends a context counts to the continuation, and where both are plain text they are split into tokens
    together. An empty context is the start token, or the end token where there is none. A context that is too long
    loses its first tokens.

    Raises:
        ModelError: a continuation has no token, or more than the context holds.
    """
    split = [_split(model, context, continuation) for context, continuation in pairs]
    for (_, text), each in zip(pairs, split, strict=True):
        if not 0 < len(each.ids) <= model.context:
            raise ModelError(
                f"the continuation {text[:40]!r} has {len(each.ids)} tokens, and {model.name} reads {model.context}: "
                "give one that is not empty, and shorter"
            )
    found = [(0.0, True)] * len(pairs)
    for group in _batches([(len(each.ids), each.context is None) for each in split]):
        for n, answer in zip(group, _stepwise(model, [split[n] for n in group]), strict=True):
            found[n] = answer
    return found


def rolling_likelihoods(model: LanguageModel, texts: Sequence[str]) -> list[float]:
    """log p of each whole text in nats, behind the start token, or the end token where there is none.

    A text that is longer than the model's context is read in windows: each token is predicted once, and the last
    window is a full one.
    """
    size = WINDOW if model.context == sys.maxsize else model.context
    start, tokenizer = _start_id(model), model.vocabulary.tokenizer
    encoded = [[int(token) for token in tokenizer.encode(text)] for text in texts]
    windows = [(number, *window) for number, ids in enumerate(encoded) for window in _windows(start, ids, size)]
    sums = [0.0] * len(texts)
    for group in _batches([len(new) for _, _, new in windows]):
        numbers, contexts, new = zip(*(windows[n] for n in group), strict=True)
        state = model.start_ids(contexts, room=len(new[0]) - 1)
        _, logs = model.score(state, range(len(group)), list(map(len, state.ids)), new)
        for number, row in zip(numbers, logs, strict=True):
            sums[number] += sum(row)
    return sums


def _split(model: LanguageModel, context: PromptInput, text: str) -> Continued:
    vocabulary, template = model.vocabulary, model.template
    if isinstance(context, list) or template == CHAT:
        return Continued(context, vocabulary.encode_response(text))
    if template.endswith("{prompt}"):
        kept = context.rstrip()
        context, text = kept, context[len(kept) :] + text
    before = fill(template, prompt=context)
    if not before:
        ids = [int(token) for token in vocabulary.tokenizer.encode(text, add_special_tokens=False)]
        return Continued(None, ids[1:] if len(ids) > 1 and ids[0] == _start_id(model) else ids)
    whole = vocabulary.encode_prompt(before + text, "{prompt}")
    ids = whole[len(vocabulary.encode_prompt(before, "{prompt}")) :]
    return Continued(context, ids or vocabulary.encode_response(text))  # together they may be fewer tokens


def _start_id(model: LanguageModel) -> int:
    """What stands before a text without context."""
    vocabulary = model.vocabulary
    begins = vocabulary.start_token is not None or vocabulary.tokenizer.bos_token_id is not None
    return vocabulary.start_id if begins else vocabulary.end_id


def _windows(start: int, ids: list[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Contexts and the ids behind each that are predicted, together one more than `size` at most."""
    every = [start, *ids]
    for first in range(1, len(every), size):
        end = min(first + size, len(every))
        yield every[max(0, end - size - 1) : first], every[first:end]


def _batches(keys: Sequence[Any]) -> Iterator[list[int]]:
    """The places of equal keys, up to `BATCH` together."""
    for key in dict.fromkeys(keys):
        places = [place for place, each in enumerate(keys) if each == key]
        for first in range(0, len(places), BATCH):
            yield places[first : first + BATCH]


@torch.inference_mode()
def _stepwise(model: LanguageModel, texts: Sequence[Continued]) -> list[tuple[float, bool]]:
    """The answers for continuations of one length, which all have a context or all have none."""
    check_ids(model.name, model.vocabulary, model.vocab_size, [each.ids for each in texts])
    contexts = [each.context for each in texts if each.context is not None]
    room = len(texts[0].ids) - 1  # the last token is predicted and never read
    bare = [[_start_id(model)]] * len(texts)
    state = model.start(contexts, room, truncate=True) if contexts else model.start_ids(bare, room)
    found = [(0.0, True)] * len(texts)
    for step in range(room + 1):
        logits = model.next_logits(state)
        logs = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
        wanted = [each.ids[step] for each in texts]
        tokens = torch.tensor(wanted, device=logs.device)
        values = logs.gather(1, tokens[:, None]).flatten().tolist()
        greedy = (logs.argmax(-1) == tokens).tolist()
        found = [(a + b, c and d) for (a, c), b, d in zip(found, values, greedy, strict=True)]
        state.append(wanted)
    return found
