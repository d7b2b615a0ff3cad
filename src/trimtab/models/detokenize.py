"""Token ids as text that only grows: the text of some tokens begins the text of these and more.

A tokenizer alone does not promise that. Where the bytes of a character are tokens of their own, a sequence may end
within a character; and a byte-fallback decoder (SentencePiece's, as in Llama 2 and Gemma) gives up a whole run of byte
tokens where one of them is wrong. Here whole characters stay, each byte that belongs to none is one U+FFFD, and only
an unfinished last character is left out.

    >>> Detokenizer(tokenizer).texts([[3 + 0xC3, 3 + 0xA9, 3 + 0xF0, 3 + 0x9F]])        # doctest: +SKIP
    ['é']
"""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

REPLACEMENT = "\ufffd"  # what bytes that are no character are decoded to
_LONGEST_UNFINISHED = 3  # bytes: a character has four at most
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}  # of byte-level BPE's alphabet


class Detokenizer:
    """The texts of a tokenizer's ids, without special tokens and without any clean-up of spaces."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        kind = type(tokenizer)
        own = isinstance(tokenizer, PreTrainedTokenizerFast) and kind._decode is PreTrainedTokenizerFast._decode
        self._backend = tokenizer.backend_tokenizer if own else None
        decoder = None if self._backend is None else self._backend.decoder
        self._decoder = decoder
        kinds = set() if decoder is None else set(_kinds(json.loads(decoder.__getstate__())))
        self._byte_fallback = "ByteFallback" in kinds
        self._byte_level = "ByteLevel" in kinds and not self._byte_fallback

    @cached_property
    def special(self) -> Mapping[int, str]:
        """The special tokens by their ids: those that texts are given without."""
        if self._backend is None:
            ids = self._tokenizer.all_special_ids
            return dict(zip(ids, map(str, self._tokenizer.convert_ids_to_tokens(ids)), strict=True))
        return {int(number): str(token) for number, token in self._added.items() if token.special}

    @cached_property
    def added(self) -> Mapping[int, str]:
        """All added tokens by their ids, special or not: each is always one token of its own."""
        return {int(number): str(token) for number, token in self._added.items()}

    @cached_property
    def _added(self) -> Mapping[int, Any]:
        return self._tokenizer.added_tokens_decoder

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, without an unfinished last character."""
        if self._backend is None:
            return [self._decode(row) for row in rows]
        texts: list[str] = self._backend.decode_batch(rows, skip_special_tokens=True)
        return [self._mended(row, text) if REPLACEMENT in text else text for row, text in zip(rows, texts, strict=True)]

    def _mended(self, ids: Sequence[int], text: str) -> str:
        """The text of ids some of whose bytes are not, or not yet, a character."""
        if self._byte_fallback:
            return self._from_byte_tokens(list(self._tokens(ids)))
        if self._byte_level and text.endswith(REPLACEMENT) and _unfinished(self._last_bytes(ids)):
            return text[:-1]
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        """With a tokenizer of Python code, whose bytes are not known: no U+FFFD stays at the end."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.rstrip(REPLACEMENT)

    def _tokens(self, ids: Sequence[int]) -> Iterator[str]:
        """The tokens of ids, without special ones and those that the tokenizer does not have."""
        assert self._backend is not None
        named = (self._backend.id_to_token(token) for token in ids if token not in self.special)
        return (token for token in named if token is not None)

    def _from_byte_tokens(self, tokens: Sequence[str]) -> str:
        """The decoder's text of tokens among which every byte of no character is replaced by U+FFFD."""
        parts: list[str] = []
        run = bytearray()
        for token in tokens:
            byte = _byte_token(token)
            if byte is None:
                parts += [*_characters(run), token]
                run.clear()
            else:
                run.append(byte)
        parts += _characters(run[: len(run) - _unfinished(run)])
        assert self._decoder is not None
        return str(self._decoder.decode(parts))

    def _last_bytes(self, ids: Sequence[int]) -> bytes:
        """At least the last bytes that an unfinished character may have, as a byte-level decoder reads tokens."""
        last = b""
        for token in self._tokens(ids[::-1]):
            known = all(character in _BYTE_OF for character in token)
            last = (bytes(_BYTE_OF[character] for character in token) if known else token.encode()) + last
            if len(last) >= _LONGEST_UNFINISHED:
                break
        return last


def _kinds(decoder: Mapping[str, Any]) -> Iterator[str]:
    """The names of a decoder's parts."""
    yield decoder["type"]
    for part in decoder.get("decoders", []):
        yield from _kinds(part)


def _byte_token(token: str) -> int | None:
    """The byte of a token such as <0xE2>; None for any other token."""
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None


def _characters(run: bytes | bytearray) -> Iterator[str]:
    """The byte tokens of whole characters, and U+FFFD for each other byte."""
    for character in run.decode("utf-8", errors="surrogateescape"):
        if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of no character
            yield REPLACEMENT
        else:
            yield from (f"<0x{byte:02X}>" for byte in character.encode())


def _unfinished(end: bytes | bytearray) -> int:
    """How many bytes at the end begin a character that more bytes may finish."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(bytes(end[-_LONGEST_UNFINISHED:]))
    return len(decoder.getstate()[0])
