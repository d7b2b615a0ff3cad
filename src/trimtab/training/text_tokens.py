"""Texts as the tokens that a language model is trained on: begun by its start token and, where whole, ended.

>>> encode_texts(["A fine film."], vocabulary, max_length=8)[0].input_ids           # doctest: +SKIP
[1, 49, 4017, 1733, 30, 2]
"""

import dataclasses
from collections.abc import Sequence

from trimtab.models.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True)
class TextTokens:
    """One text as ids; the name is the column that TRL's collator reads. All but the first are predicted."""

    input_ids: list[int]

    @property
    def length(self) -> int:
        return len(self.input_ids)


def encode_texts(texts: Sequence[str], vocabulary: Vocabulary, max_length: int) -> list[TextTokens]:
    """The start token, the text's own tokens, and the end token where `max_length` leaves room for all of them.

    A text that is cut has no end token: where it was cut is not where it ended. A start or end token that the text
    itself begins or closes with stands once.

    Raises:
        ModelError: the vocabulary has no start token.
    """
    start, end = [vocabulary.start_id], [vocabulary.end_id]
    rows = vocabulary.encode_responses([vocabulary.without_ends(text) for text in texts])
    return [TextTokens((start + ids[ids[:1] == start :] + end)[:max_length]) for ids in rows]
