"""A model under a guide: texts for prompts, or one text as it comes about.

>>> guided = Guide(tuned, untuned).steer(large)                                     # doctest: +SKIP
>>> for text in guided.stream("I really"):                                          # doctest: +SKIP
...     print(text, end="", flush=True)
"""

import json
import logging
import numbers
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast, overload

from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError
from trimtab.messages import prompt_of
from trimtab.models.encoding import common_prefix
from trimtab.models.language_model import LanguageModel, raise_if_too_long
from trimtab.models.served_model import CompletionsModel
from trimtab.records import SET_ASIDE, Message, Prompt, PromptInput
from trimtab.search.chunk_beam import Search
from trimtab.search.completions_proposer import CompletionsProposer
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer, Proposer
from trimtab.search.value import Value
from trimtab.store.blocks import block_size
from trimtab.store.progress import watching

Several: TypeAlias = list[str] | list[list[Message]] | list[PromptInput]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GuidedModel:
    """What `Guide.steer` makes. `dataclasses.replace` gives one with other settings.

    `rows` candidates are decoded together: more are faster, and take more memory.

    Raises:
        ConfigurationError: `stop` holds an empty text or no text; seed or rows is no such number.
    """

    base: LanguageModel | CompletionsModel
    value: Value | None
    search: Search
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()
    seed: int = 0
    rows: int = 256

    def __post_init__(self) -> None:
        for each in self.stop:
            if not isinstance(each, str):
                raise ConfigurationError(f"stop holds {each!r}, which is no text: give texts")
            if not each:
                raise ConfigurationError("stop holds an empty text, at which every response ends: leave it out")
        for name, number, least in (("seed", self.seed, 0), ("rows", self.rows, 1)):
            if not isinstance(number, numbers.Integral) or isinstance(number, bool) or number < least:
                raise ConfigurationError(f"{name} is {number!r}: give a whole number of at least {least}")

    @overload
    def generate(
        self, prompts: str | list[Message], max_new_tokens: int | None = None, *, progress: bool = False
    ) -> str: ...

    @overload
    def generate(self, prompts: Several, max_new_tokens: int | None = None, *, progress: bool = False) -> list[str]: ...

    def generate(
        self, prompts: PromptInput | Several, max_new_tokens: int | None = None, *, progress: bool = False
    ) -> str | list[str]:
        """The best response to each prompt, or to the one prompt.

        Args:
            prompts: strings, or conversations as lists of messages with `role` and `content`; one or several.
            max_new_tokens: of a response at most (default: the search's).
            progress: show how far it is.

        Returns:
            The responses' texts, without the prompts. Where a model's logits or the values of candidates are not
            finite numbers, a response is empty, and a warning says why.

        Raises:
            DataError: a prompt is neither a text nor a list of messages, or holds what models do not read.
            ModelError: a prompt leaves no room for a response in a model's context, or holds a token without embedding.
        """
        one = isinstance(prompts, str | Mapping) or not isinstance(prompts, Sized)  # or a mistake, which is named below
        one = one or (len(prompts) > 0 and isinstance(prompts[0], Mapping))
        every = cast(Sequence[PromptInput], [prompts] if one else prompts)
        texts = [self._text(found) for found in self.hypotheses(every, max_new_tokens, progress=progress)]
        return texts[0] if one else texts

    def hypotheses(
        self, prompts: Sequence[PromptInput], max_new_tokens: int | None = None, *, progress: bool = False
    ) -> list[list[Hypothesis]]:
        """The finished hypotheses of each prompt, best first, with their token ids, values and why they ended.

        `Search(keep=n)` says how many. Values are in nats where a pair guides, else in the reward's unit.

        Raises:
            ModelError: a prompt leaves no room for a response in a model's context, or holds a token without embedding.
        """
        proposer, search = self._proposer(), self._search(max_new_tokens)
        every = _numbered(prompts)
        for prompt in every:  # before anything is decoded that would be lost
            raise_if_too_long(search.too_long(prompt, proposer, self.value))
        size = block_size(self.rows, search.candidates)
        found: list[list[Hypothesis]] = []
        with watching(quiet=not progress) as watch, watch("generate") as advance:
            for first in range(0, len(every), size):
                advance(first, len(every))
                found += search.run(every[first : first + size], proposer, self.value)
            advance(len(every), len(every))
        return found

    def stream(self, prompt: PromptInput, max_new_tokens: int | None = None) -> Iterator[str]:
        """The response of `generate` in pieces, each given as soon as no beam disagrees on it any more.

        Plain sampling gives token by token, chunk-level beam search at most a chunk at a time; best-of-N, whose
        samples have nothing in common, gives all at its end, and so does plain sampling behind an endpoint.
        """
        search = self._search(max_new_tokens)
        if search.candidates == 1 and not isinstance(self.base, CompletionsModel):
            search = replace(search, chunk=1)
        (numbered,), proposer = _numbered([prompt]), self._proposer()
        raise_if_too_long(search.too_long(numbered, proposer, self.value))
        given = ""
        for step in search.steps([numbered], proposer, self.value):
            (kept,) = step.kept
            settled = proposer.settled_texts([beam.prompt_ids for beam in kept], [beam.token_ids for beam in kept])
            known = _shared([text if beam.open else beam.text for beam, text in zip(kept, settled, strict=True)])
            if len(known) > len(given) and any(beam.open for beam in kept):
                yield known[len(given) :]
                given = known
        rest = self._text(search.answers(step)[0])[len(given) :]
        if rest:
            yield rest

    def _proposer(self) -> Proposer:
        if isinstance(self.base, CompletionsModel):
            return CompletionsProposer(self.base, self.sampling, self.seed, stop=self.stop)
        return LanguageModelProposer(self.base, self.sampling, self.seed, stop=self.stop)

    def _search(self, max_new_tokens: int | None) -> Search:
        return self.search if max_new_tokens is None else replace(self.search, max_new_tokens=max_new_tokens)

    def _text(self, found: Sequence[Hypothesis]) -> str:
        if found[0].finish == "too_long":  # as only a server finds out
            raise_if_too_long("a prompt leaves no room for a response in a model's context")
        elif found[0].finish in SET_ASIDE:
            _log.warning("a prompt has no response: %s", SET_ASIDE[found[0].finish])
        return found[0].text


def _numbered(prompts: Sequence[PromptInput]) -> list[Prompt]:
    """The prompts with ids that follow from their contents alone; of equal ones each has its own.

    Raises:
        DataError: one is neither a text nor a list of messages.
    """
    seen: Counter[str] = Counter()
    numbered = []
    for number, given in enumerate(prompts, start=1):
        prompt = prompt_of(given, f"prompt {number}")
        content = json.dumps(prompt)
        numbered.append(Prompt(f"{content} {seen[content]}", prompt))
        seen[content] += 1
    return numbered


def _shared(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    return texts[0][: min(common_prefix(texts[0], text) for text in texts)]
