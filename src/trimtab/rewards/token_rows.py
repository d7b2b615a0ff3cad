"""Rows of token ids that a reward model can read: within its limit of length and its vocabulary, and padded.

>>> padded([[5, 6], [7]], 0)[0].tolist()
[[5, 6], [7, 0]]
"""

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from trimtab.errors import ModelError
from trimtab.models.encoding import special_ids_around

_log = logging.getLogger(__name__)


class TokenRows:
    """Cuts rows of more than `max_length` tokens, and refuses tokens from `vocabulary` on, which have no embedding.

    A row loses its beginning, so that the response, which stands at the end, is always judged. The special tokens that
    the tokenizer puts around a text ([CLS] and [SEP], or a beginning-of-text token) stay. The first cut is warned of.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._vocabulary = vocabulary
        self._before, self._behind = special_ids_around(tokenizer)
        self._warned = False

    def fitted(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """The rows, cut to `max_length`.

        Raises:
            ModelError: a row holds a token that the model has no embedding for.
        """
        for row in rows:
            beyond = max(row, default=0)
            if beyond >= self._vocabulary:
                raise ModelError(
                    f"the reward model has embeddings for {self._vocabulary} tokens, and its tokenizer gives token "
                    f"{beyond} ({self._tokenizer.convert_ids_to_tokens(beyond)}): resize its embeddings, or save its "
                    "own tokenizer beside it"
                )
        return [self._cut(list(row)) for row in rows]

    def _cut(self, row: list[int]) -> list[int]:
        if len(row) <= self._max_length:
            return row
        if not self._warned:
            self._warned = True
            _log.warning(
                "a text has %d tokens and the reward model reads %d: it loses its beginning, as do others that are "
                "too long",
                len(row),
                self._max_length,
            )
        before = self._before if row[: len(self._before)] == self._before else []
        behind = self._behind if row[len(row) - len(self._behind) :] == self._behind else []
        text = row[len(before) : len(row) - len(behind)]
        room = max(0, self._max_length - len(before) - len(behind))
        return [*before, *text[len(text) - room :], *behind][-self._max_length :]


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each [rows, longest row]; `pad` fills the ids on the right.

    Padding on the right suits every family: positions start at 0, and a causal model reads padding only after a text.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
