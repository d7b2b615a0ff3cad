"""Strings that end a response or a chunk, looked for in its text and in what the model wrote, special tokens included.

Texts are given without special tokens. So a string that holds one (`<|im_end|>`, or `.<|im_end|>`) is looked for in the
text with special tokens spelled out, and the place where it begins is carried back to the text.

    >>> Written("An oak.", ((7, "<|im_end|>"),)).cut_before(["oak.<|im_end|>"])
    'An '
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Written:
    """A response's text, and the special tokens that it is given without: the place of each in `text`, and its name."""

    text: str
    special: tuple[tuple[int, str], ...] = ()

    def cut_before(self, strings: Sequence[str]) -> str:
        """The text up to the first of the strings in it."""
        found = [at for each in strings if (at := self.text.find(each)) >= 0]
        if self.special:
            spelled = self._spelled
            found += [self._place(at) for each in self._with_special(strings) if (at := spelled.find(each)) >= 0]
        return self.text[: min(found, default=len(self.text))]

    def held_back(self, strings: Sequence[str]) -> str:
        """The text without an end that may become one of the strings, before which a response is cut."""
        left = len(self.text) - _longest_opening(self.text, strings)
        if self.special:
            spelled = self._spelled
            left = min(left, self._place(len(spelled) - _longest_opening(spelled, self._with_special(strings))))
        return self.text[:left]

    def has_new(self, strings: Sequence[str], before: "Written") -> bool:
        """Whether one of the strings has come about, whole or its end, since the response was `before`."""
        if _has_new(self.text, len(before.text), strings):
            return True
        return bool(self.special) and _has_new(self._spelled, len(before._spelled), self._with_special(strings))

    def _with_special(self, strings: Sequence[str]) -> list[str]:
        """Those of the strings that hold one of the response's special tokens."""
        return [each for each in strings if any(name in each for _, name in self.special)]

    @property
    def _spelled(self) -> str:
        """The text with special tokens spelled out."""
        parts, last = [], 0
        for place, name in self.special:
            parts += [self.text[last:place], name]
            last = place
        return "".join([*parts, self.text[last:]])

    def _place(self, at: int) -> int:
        """The place in the text of character `at` of the spelled one."""
        extra = 0
        for place, name in self.special:
            if at < place + extra + len(name):
                return min(at - extra, place)
            extra += len(name)
        return at - extra


class ResponseWriter:
    """Responses' ids as what they have written. `strings` are all that will be looked for in it.

    Special tokens are spelled out only where one of the strings holds one.
    """

    def __init__(self, vocabulary: Vocabulary, strings: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._spells = any(name in each for each in strings for name in vocabulary.detokenizer.special.values())

    def written(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Written]:
        """Each response behind its prompt."""
        texts = self._vocabulary.decode_responses(prompts, responses)
        if not self._spells:
            return [Written(text) for text in texts]
        return [
            Written(text, tuple(self._vocabulary.special_tokens_in(prompt, ids)))
            for text, prompt, ids in zip(texts, prompts, responses, strict=True)
        ]


def _longest_opening(text: str, strings: Sequence[str]) -> int:
    """The length of the longest end of the text that one of the strings begins with, and has more than."""
    return max((size for each in strings for size in range(1, len(each)) if text.endswith(each[:size])), default=0)


def _has_new(text: str, before: int, strings: Sequence[str]) -> bool:
    """Whether one of the strings ends behind character `before` of the text."""
    return any(text.find(each, max(0, before - len(each) + 1)) >= 0 for each in strings)
