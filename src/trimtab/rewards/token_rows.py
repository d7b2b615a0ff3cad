"""Rows of token ids that a reward model can read: no longer than its limit, and of tokens that it has.

rows = TokenRows(tokenizer, max_length=512, vocabulary=30522)
rows.fitted([tokenizer.encode("A long text ...")])
"""

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trimtab.errors import ModelError
from trimtab.models.encoding import special_ids_around

_log = logging.getLogger(__name__)


class TokenRows:
    """Cuts rows of more than `max_length` tokens, and refuses tokens from `vocabulary` on, which have no embedding.

    A row loses its beginning, so that the response, which stands at the end, is always judged. The special tokens that
    the tokenizer puts around a text ([CLS] and [SEP], or a beginning-of-text token) stay. A warning says so once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._vocabulary = vocabulary
        self._before, self._behind = special_ids_around(tokenizer)
        self._warned = False

    def fitted(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """The rows, as long as they may be.

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
        return [self._cut(row) for row in rows]

    def _cut(self, row: Sequence[int]) -> list[int]:
        if len(row) <= self._max_length:
            return list(row)
        if not self._warned:
            self._warned = True
            _log.warning(
                "a text has %d tokens and the reward model reads %d: it loses its beginning, as do others that are "
                "too long",
                len(row),
                self._max_length,
            )
        before = self._before if list(row[: len(self._before)]) == self._before else []
        behind = self._behind if list(row[len(row) - len(self._behind) :]) == self._behind else []
        text = row[len(before) : len(row) - len(behind)]
        room = max(0, self._max_length - len(before) - len(behind))
        return [*before, *text[len(text) - room :], *behind][-self._max_length :]
