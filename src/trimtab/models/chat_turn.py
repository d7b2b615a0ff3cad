"""What a chat template writes around an answer: a space in Llama 2, an empty thought in Qwen3, and what ends the turn.

>>> turn = Turn(before=" ", after=" ")
>>> turn.written("An oak.", ended=True), turn.written(" An oak.", ended=False)
(' An oak. ', ' An oak.')
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """The assistant's turn, from the generation prompt to its end token; all empty where a prompt is plain text.

    `before` stands between the generation prompt and the answer's words, `after` between them and the end token.
    `strips_start`, `strips_end`: white space around the words is left out.
    """

    before: str = ""
    after: str = ""
    strips_start: bool = False
    strips_end: bool = False

    def written(self, text: str, *, ended: bool) -> str:
        """A text as the template writes it behind the generation prompt; no text that has not ended stays none.

        `before` stands once, and not where the text brings its own: a thought of its own for an empty one.
        """
        words = self.words(text)
        if not words and not ended:
            return text
        if words == text and self._brings_own(text):
            before = ""
        else:
            before = self.before
            words = words.lstrip() if self.strips_start else words
        if not ended:
            return before + words
        return before + (words.rstrip() if self.strips_end else words) + self.after

    def _brings_own(self, text: str) -> bool:
        first = self.before.split()[:1]
        return bool(first) and text.lstrip().startswith(first[0])

    def words(self, text: str) -> str:
        """A text that was sampled behind the generation prompt, without what the template itself puts there."""
        return text.removeprefix(self.before)
