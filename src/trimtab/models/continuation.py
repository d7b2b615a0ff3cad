"""Texts that continue another as ids: encoded apart from what they continue, and not as a text's beginning.

Some tokenizers put a space before the first word of whatever they encode. A response that does not begin with one
would be other tokens than those that a model writes. Knows nothing of models.

    >>> continuation_ids(tokenizer, [" liked it", "Yes"])                               # doctest: +SKIP
    [[5023, 372], [8241]]
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"  # a text to continue, whose end merges with nothing


def continuation_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text where it stands behind another, without start or end tokens."""
    if not texts:
        return []
    alone = _encode(tokenizer, texts)
    anchor, word, anchored = _encode(tokenizer, [ANCHOR, "a", f"{ANCHOR}a"])
    size = len(anchor)
    if anchored == anchor + word or anchored[:size] != anchor:
        return alone  # a text's beginning is like any other place, or nothing can be told
    behind = _encode(tokenizer, [ANCHOR + text for text in texts])
    return [
        after[size:] if after[:size] == anchor else plain  # a text whose first token took the anchor in
        for after, plain in zip(behind, alone, strict=True)
    ]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
