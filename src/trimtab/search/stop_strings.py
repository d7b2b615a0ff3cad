"""Strings that end a response or a chunk, searched for in its text and in its special tokens.

Texts are given without special tokens. So a string that holds one (`<|im_end|>`, or `.<|im_end|>`) is searched for in
the text with special tokens spelled out, and the index at which it begins is carried back to the text.

    >>> Written("An oak.", ((7, "<|im_end|>"),)).cut_before(["oak.<|im_end|>"])
    'An '
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Written:
    """A response's text, and the special tokens that it leaves out: the index of each in `text`, and its name."""

    text: str
    special: tuple[tuple[int, str], ...] = ()

    def cut_before(self, strings: Sequence[str]) -> str:
        """The text up to the first of the strings in it."""
        cuts = [at for string in strings if (at := self.text.find(string)) >= 0]
        if self.special:
            spelled = self._spelled
            cuts += [self._index(at) for string in self._with_special(strings) if (at := spelled.find(string)) >= 0]
        return self.text[: min(cuts, default=len(self.text))]

    def held_back(self, strings: Sequence[str]) -> str:
        """The text without an end that may be the beginning of a stop string, where the response would be cut."""
        left = len(self.text) - _longest_opening(self.text, strings)
        if self.special:
            spelled = self._spelled
            left = min(left, self._index(len(spelled) - _longest_opening(spelled, self._with_special(strings))))
        return self.text[:left]

    def has_new(self, strings: Sequence[str], before: "Written") -> bool:
        """Whether one of the strings has ended since the response was `before`."""
        if _ends_after(self.text, len(before.text), strings):
            return True
        return bool(self.special) and _ends_after(self._spelled, len(before._spelled), self._with_special(strings))

    def _with_special(self, strings: Sequence[str]) -> list[str]:
        """The strings that contain one of the response's special tokens."""
        return [string for string in strings if any(name in string for _, name in self.special)]

    @property
    def _spelled(self) -> str:
        """The text with special tokens spelled out."""
        text = self.text
        for index, name in reversed(self.special):
            text = text[:index] + name + text[index:]
        return text

    def _index(self, at: int) -> int:
        """The index in the text of character `at` of the spelled one."""
        extra = 0
        for index, name in self.special:
            if at < index + extra + len(name):
                return min(at - extra, index)
            extra += len(name)
        return at - extra


class ResponseWriter:
    """Turns responses' ids into `Written` texts. `strings` are all strings that will be searched for in them.

    Special tokens are spelled out only where one of the strings holds one.
    """

    def __init__(self, vocabulary: Vocabulary, strings: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._spells = any(name in string for string in strings for name in vocabulary.detokenizer.special.values())

    def written(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Written]:
        """Each response after its prompt."""
        texts = self._vocabulary.decode_responses(prompts, responses)
        if not self._spells:
            return [Written(text) for text in texts]
        named = [self._vocabulary.special_tokens_in(*ids) for ids in zip(prompts, responses, strict=True)]
        return [Written(text, tuple(special)) for text, special in zip(texts, named, strict=True)]


def _longest_opening(text: str, strings: Sequence[str]) -> int:
    """The length of the longest end of the text that is the beginning, but not all, of one of the strings."""
    return max(
        (size for string in strings for size in range(1, len(string)) if text.endswith(string[:size])), default=0
    )


def _ends_after(text: str, before: int, strings: Sequence[str]) -> bool:
    """Whether one of the strings ends after character `before` of the text."""
    return any(text.find(string, max(0, before - len(string) + 1)) >= 0 for string in strings)
