"""Texts as ids: whole texts behind the special tokens in front, and texts that continue another.

Some tokenizers put a space in front of the first word of every text. A response that begins without a space
would become other tokens than a model writes, so continuations are encoded as part of a longer text.
"""

from collections.abc import Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"  # stands before a continuation that is encoded; it seldom merges with the next character


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, prefix: list[int]) -> list[int]:
    """The ids of a whole text after `prefix`, which is the first part of `special_ids_around`.

    A text that itself begins with these tokens gets them once. Tokens that the tokenizer would append (an end token,
    [SEP]) are left out, since a model goes on from here; an end token within the text stays.
    """
    (ids,) = _encode(tokenizer, [text])
    return ids if prefix and ids[: len(prefix)] == prefix else [*prefix, *ids]


def special_ids_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts in front of a text, and those behind it."""
    (bare,) = _encode(tokenizer, ["a"])
    whole = [int(token) for token in tokenizer.encode("a", add_special_tokens=True)]
    if not bare:  # the tokenizer has no letter a: whether its special tokens come first is known by their names
        begins = whole[:1] in ([tokenizer.bos_token_id], [tokenizer.cls_token_id])
        return whole[:begins], whole[begins:]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """The number of ids, or of characters, that both begin with.

    >>> common_prefix([1, 2, 3], [1, 2, 4])
    2
    """
    if right[: len(left)] == left:  # the usual case, a response that has grown; many times faster
        return len(left)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def continuation_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text as the continuation of another, without start or end tokens."""
    if not texts:
        return []
    alone = _encode(tokenizer, texts)
    anchor, word, anchored = _encode(tokenizer, [ANCHOR, "a", f"{ANCHOR}a"])
    size = len(anchor)
    if anchored == anchor + word or anchored[:size] != anchor:
        return alone  # the tokenizer treats a beginning like any other position, or the anchor merges with what follows
    behind = _encode(tokenizer, [ANCHOR + text for text in texts])
    return [
        ids[size:] if ids[:size] == anchor else plain  # plain: the text's first token has merged with the anchor
        for ids, plain in zip(behind, alone, strict=True)
    ]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
