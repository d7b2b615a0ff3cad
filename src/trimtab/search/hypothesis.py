"""What a search makes: hypotheses, which a user gets, and beams, which the search works with.

>>> root = Beam(Hypothesis(Prompt("p0", "I really"), prompt_ids=[5, 9], token_ids=[], text="", finish=None))
>>> root.open
True
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.models.encoding import common_prefix
from trimtab.records import Finish, Prompt


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One response to one prompt, whole or so far.

    `prompt_ids`: the prompt as the sampled model reads it. `token_ids`: all tokens of the response, an end token
    included where the model sampled it. `text`: without special tokens, cut before a stop string. `finish`: why the
    response ended, None while it can go on. `value`: what the search ranks by, 0 where it has no value.
    `log_probability`: log p(response | prompt) in nats under the sampled model, None where nobody asked for it.
    """

    prompt: Prompt
    prompt_ids: list[int]
    token_ids: list[int]
    text: str
    finish: Finish | None
    value: float = 0.0
    log_probability: float | None = None


@dataclass(frozen=True, slots=True)
class Beam:
    """A hypothesis and where it stands in its search.

    `slot`: which random stream drew the last chunk. `parent`: index of the beam it extends, among those that the
    previous step kept. `group`: the group of beams that it competes in. `settled`: the start of the text that no later
    token changes, since a stop string may have begun at its end.
    """

    hypothesis: Hypothesis
    slot: int = 0
    parent: int = 0
    group: int = 0
    settled: str = ""

    @property
    def open(self) -> bool:
        return self.hypothesis.finish is None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the search: each prompt's candidates, best first, and those of them that it keeps."""

    number: int
    candidates: list[list[Beam]]
    kept: list[list[Beam]]

    @property
    def finished(self) -> bool:
        return not any(beam.open for beams in self.kept for beam in beams)


def agreed_text(beams: Sequence[Beam]) -> str:
    """The start that the texts of all beams share, and that no later token of theirs changes."""
    texts = [beam.settled if beam.open else beam.hypothesis.text for beam in beams]
    return texts[0][: min(common_prefix(texts[0], text) for text in texts)]
