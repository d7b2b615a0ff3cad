"""Texts as ids: whole ones with what the tokenizer begins them with, and those that continue another.

Some tokenizers put a space before the first word of whatever they encode. A response that does not begin with one
would be other tokens than those that a model writes, so continuations are encoded as what stands behind another text.

    >>> continuation_ids(tokenizer, [" liked it", "Yes"])                               # doctest: +SKIP
    [[5023, 372], [8241]]
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"  # a text to continue, whose end merges with nothing


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, before: list[int]) -> list[int]:
    """The ids of a whole text: what it holds, behind the special tokens that the tokenizer begins texts with.

    `before` are these tokens, the first part of `special_ids_around`. Where the text itself begins with them, they
    stand once. What the tokenizer appends to texts (an end token, [SEP]) is left out, since a model goes on from here;
    an end token that the text holds stays.
    """
    (ids,) = _encode(tokenizer, [text])
    return ids if before and ids[: len(before)] == before else [*before, *ids]


def special_ids_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before a text, and those behind it."""
    (alone,) = _encode(tokenizer, ["a"])
    whole = [int(token) for token in tokenizer.encode("a", add_special_tokens=True)]
    if not alone:  # it has no letter a, so only their own names tell where the tokens stand
        begins = whole[:1] in ([tokenizer.bos_token_id], [tokenizer.cls_token_id])
        return whole[:begins], whole[begins:]
    for start in range(len(whole) - len(alone) + 1):
        if whole[start : start + len(alone)] == alone:
            return whole[:start], whole[start + len(alone) :]
    return [], []


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """The number of ids, or of characters, that both begin with.

    >>> common_prefix([1, 2, 3], [1, 2, 4])
    2
    """
    if right[: len(left)] == left:  # as wherever a response has only grown; many times faster
        return len(left)
    length = 0
    for first, second in zip(left, right, strict=False):
        if first != second:
            break
        length += 1
    return length


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
