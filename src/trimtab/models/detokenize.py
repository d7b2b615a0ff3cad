"""Token ids as text that only grows: the text of some tokens is a prefix of the text of these and more.

A tokenizer alone does not promise that. A sequence may end within a character whose bytes are separate tokens, and a
byte-fallback decoder (SentencePiece's, as in Llama 2 and Gemma) gives up a whole run of byte tokens where one of them
is wrong. Here whole characters stay, each byte outside of a character is one U+FFFD, and only an unfinished last
character is left out.
"""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

REPLACEMENT = "\ufffd"  # the text of bytes that are no character
_MAX_UNFINISHED = 3  # bytes: a character has four at most
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}  # of byte-level BPE's alphabet
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class Detokenizer:
    """The texts of a tokenizer's ids, without special tokens and without any clean-up of spaces."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        kind = type(tokenizer)
        is_fast = isinstance(tokenizer, PreTrainedTokenizerFast) and kind._decode is PreTrainedTokenizerFast._decode
        self._backend = tokenizer.backend_tokenizer if is_fast else None
        self._decoder = None if self._backend is None else self._backend.decoder
        state = b"" if self._decoder is None else self._decoder.__getstate__()  # JSON
        self._byte_fallback = b'"ByteFallback"' in state
        self._byte_level = b'"ByteLevel"' in state and not self._byte_fallback

    @cached_property
    def special(self) -> Mapping[int, str]:
        """The special tokens by their ids: texts are given without them."""
        if self._backend is None:
            ids = self._tokenizer.all_special_ids
            return dict(zip(ids, map(str, self._tokenizer.convert_ids_to_tokens(ids)), strict=True))
        return {
            int(index): str(token) for index, token in self._tokenizer.added_tokens_decoder.items() if token.special
        }

    @cached_property
    def added(self) -> Mapping[int, str]:
        """All added tokens by their ids, special or not: a tokenizer never splits their text."""
        return {int(index): str(token) for index, token in self._tokenizer.added_tokens_decoder.items()}

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, without an unfinished last character."""
        if self._backend is None:
            return [self._decode(row) for row in rows]
        texts: list[str] = self._backend.decode_batch(rows, skip_special_tokens=True)
        return [self._mended(row, text) if REPLACEMENT in text else text for row, text in zip(rows, texts, strict=True)]

    def _mended(self, ids: Sequence[int], text: str) -> str:
        """The text of ids with bytes that are not, or not yet, a character."""
        if self._byte_fallback:
            return self._from_byte_tokens(list(self._tokens(ids)))
        if self._byte_level and text.endswith(REPLACEMENT) and _unfinished(self._last_bytes(ids)):
            return text[:-1]
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        """The text by a tokenizer in Python, whose bytes are not known: no U+FFFD stays at the end."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.rstrip(REPLACEMENT)

    def _tokens(self, ids: Sequence[int]) -> Iterator[str]:
        """The tokens of ids, without special ones and ids that the tokenizer does not have."""
        assert self._backend is not None
        names = (self._backend.id_to_token(token) for token in ids if token not in self.special)
        return (name for name in names if name is not None)

    def _from_byte_tokens(self, tokens: Sequence[str]) -> str:
        """The decoder's text of tokens, with U+FFFD for each byte outside of a character."""
        parts: list[str] = []
        run = bytearray()
        for token in tokens:
            if match := _BYTE_TOKEN.fullmatch(token):
                run.append(int(match[1], 16))
            else:
                parts += [*_characters(run), token]
                run.clear()
        parts += _characters(run[: len(run) - _unfinished(run)])
        assert self._decoder is not None
        return str(self._decoder.decode(parts))

    def _last_bytes(self, ids: Sequence[int]) -> bytes:
        """The last bytes of the tokens, at least as many as an unfinished character may have."""
        last = b""
        for token in self._tokens(ids[::-1]):
            is_bytes = all(character in _BYTE_OF for character in token)
            last = (bytes(_BYTE_OF[character] for character in token) if is_bytes else token.encode()) + last
            if len(last) >= _MAX_UNFINISHED:
                break
        return last


def _characters(run: bytes | bytearray) -> Iterator[str]:
    """The byte tokens of whole characters, and U+FFFD for each other byte."""
    for character in run.decode("utf-8", errors="surrogateescape"):
        if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte outside of a character
            yield REPLACEMENT
        else:
            yield from (f"<0x{byte:02X}>" for byte in character.encode())


def _unfinished(end: bytes | bytearray) -> int:
    """The number of bytes at the end that begin a character which more bytes may finish."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(bytes(end[-_MAX_UNFINISHED:]))
    return len(decoder.getstate()[0])
