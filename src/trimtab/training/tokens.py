"""Pairs and texts as the tokens that a language model is trained on.

Ids that a model sampled are taken as they are. Other text is encoded: a conversation as the chat template renders it,
a plain prompt and its responses apart. A response or text that was cut has no end token: where it was cut is not where
it ended.
"""

import dataclasses
from collections.abc import Sequence

from trimtab.errors import DataError, VocabularyError
from trimtab.models.language_model import check_ids
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import Pair


@dataclasses.dataclass(frozen=True, slots=True)
class PairTokens:
    """One pair as ids; the names are the columns that TRL's collator reads."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longer of the two sequences, the prompt included."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


@dataclasses.dataclass(frozen=True, slots=True)
class TextTokens:
    """One text as ids; all but the first are predicted. The field is named as the column that TRL's collator reads."""

    input_ids: list[int]

    @property
    def length(self) -> int:
        return len(self.input_ids)


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """`truncated` counts rows of which a response was cut to `max_length`; `dropped` counts pairs of which a response
    has no token left, because it was empty or the prompt alone fills `max_length`."""

    rows: list[PairTokens]
    truncated: int
    dropped: int


def encode_texts(texts: Sequence[str], vocabulary: Vocabulary, max_length: int) -> list[TextTokens]:
    """The start token, the text's own tokens, and the end token where `max_length` leaves room for all of them.

    A start or end token that the text itself begins or ends with is not repeated.

    Raises:
        ModelError: the vocabulary has no start token.
    """
    start, end = [vocabulary.start_id], [vocabulary.end_id]
    rows = vocabulary.encode_responses([vocabulary.without_ends(text) for text in texts])
    return [TextTokens((start + ids[ids[:1] == start :] + end)[:max_length]) for ids in rows]


def encode_pairs(
    pairs: Sequence[Pair], vocabulary: Vocabulary, prompt_template: str, max_length: int, vocabulary_size: int
) -> EncodedPairs:
    """The tokens of each pair, prompt and response together cut to `max_length`.

    A pair with `token_ids` is its `prompt_ids` followed by exactly these. A pair without is encoded by `vocabulary`,
    with an end token behind responses that ended.

    Raises:
        DataError: no pair is left, or a pair with ids has no `prompt_ids`.
        VocabularyError: a sampled id is negative or not below `vocabulary_size`.
        ModelError: a text prompt is empty and the vocabulary has no start token, or a text holds a token that is not
            below `vocabulary_size`.
    """
    rows = []
    truncated = dropped = 0
    for pair in pairs:
        prompt, responses = _ids(pair, vocabulary, prompt_template)
        foreign = [token for ids in (prompt, *responses) for token in ids if not 0 <= token < vocabulary_size]
        if not pair.token_ids:
            check_ids("the small model", vocabulary, vocabulary_size, (prompt, *responses))
        if foreign:
            raise VocabularyError(
                f"pair {pair.prompt_id} holds token {foreign[0]} and the model has {vocabulary_size}: "
                "tune the model that the responses were sampled from"
            )
        room = max_length - len(prompt)
        if room < 1 or not all(responses):
            dropped += 1
            continue
        truncated += any(len(ids) > room for ids in responses)
        rows.append(PairTokens(prompt, responses[pair.chosen][:room], responses[1 - pair.chosen][:room]))
    if not rows:
        raise DataError(
            f"none of {len(pairs)} pairs has two responses that fit max_length {max_length} behind their prompt: "
            "raise tune.max_length or give longer responses"
        )
    return EncodedPairs(rows, truncated, dropped)


def _ids(pair: Pair, vocabulary: Vocabulary, prompt_template: str) -> tuple[list[int], list[list[int]]]:
    if pair.token_ids:
        if not pair.prompt_ids:
            raise DataError(f"pair {pair.prompt_id} has token_ids and no prompt_ids: the start token belongs there")
        return pair.prompt_ids, pair.token_ids
    return vocabulary.encode_answered(pair.prompt, prompt_template, pair.responses, pair.ended)
