"""Tokens as clients see them: their texts, their log-probabilities, and the likeliest ones in their place."""

from collections.abc import Generator, Sequence
from functools import cached_property

import torch

from trimtab.models.detokenize import REPLACEMENT
from trimtab.models.device import on_device
from trimtab.models.language_model import LanguageModel
from trimtab.models.vocabulary import Vocabulary
from trimtab.serve.requests import Token

Details = tuple[float, list[tuple[int, float]]]
"""The log-probability of a token in nats, and the likeliest tokens in its place with theirs."""


class TokenTexts:
    """What each token of a vocabulary adds to a text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._texts: dict[int, str] = {}

    @cached_property
    def _anchor(self) -> list[int]:
        """A token in front: at the beginning of a text, some tokenizers drop a space."""
        return self._vocabulary.encode_response("a")[-1:]

    def __getitem__(self, token: int) -> str:
        if token not in self._texts:
            detokenizer = self._vocabulary.detokenizer
            name = detokenizer.special.get(token) or detokenizer.added.get(token)
            before, whole = detokenizer.texts([self._anchor, [*self._anchor, token]])
            self._texts[token] = name or whole[len(before) :] or REPLACEMENT
        return self._texts[token]

    def tokens(self, ids: Sequence[int], details: Sequence[Details | None] | None = None) -> tuple[Token, ...]:
        """The tokens of ids, with their details where there are any."""
        return tuple(
            Token(token, self[token], *self._spelled(more))
            for token, more in zip(ids, details or [None] * len(ids), strict=True)
        )

    def _spelled(self, details: Details | None) -> tuple[float | None, tuple[tuple[int, str, float], ...]]:
        if details is None:
            return None, ()
        return details[0], tuple((token, self[token], log) for token, log in details[1])


def details_of(logits: torch.Tensor, tokens: Sequence[int], count: int) -> list[Details]:
    """The details of one token for each row of logits [rows, vocabulary], with the `count` likeliest ones.

    Of equally likely tokens the one with the lowest id comes first.
    """
    logs = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
    chosen = logs.gather(1, on_device(tokens, logs.device)[:, None]).flatten().tolist()
    likeliest = [list[tuple[int, float]]() for _ in tokens]
    if count:
        values, ids = logs.topk(min(count, logs.shape[1]), dim=-1)
        for row, pairs in enumerate(zip(ids.tolist(), values.tolist(), strict=True)):
            likeliest[row] = sorted(zip(*pairs, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return list(zip(chosen, likeliest, strict=True))


def prompt_details(
    model: LanguageModel, ids: Sequence[int], count: int, tokens: int
) -> Generator[None, None, list[Details | None]]:
    """The details of each token of a prompt, None for the first, about `tokens` tokens at a time.

    Yields between them.
    """
    details: list[Details | None] = [None]
    for logits in model.logits_along(ids[:-1], tokens) if len(ids) > 1 else ():
        first = len(details)
        details += details_of(logits, ids[first : first + len(logits)], count)
        yield
    return details
