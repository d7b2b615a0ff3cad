"""A model under a guide: responses to prompts, or one response in pieces while it is decoded."""

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
from trimtab.models.language_model import LanguageModel, raise_if_too_long
from trimtab.models.served_model import CompletionsModel
from trimtab.records import SET_ASIDE, Message, Prompt, PromptInput
from trimtab.search.chunk_beam import Search
from trimtab.search.completions_proposer import proposer_of
from trimtab.search.hypothesis import Hypothesis, agreed_text
from trimtab.search.proposer import Proposer
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
        ConfigurationError: `stop` holds an empty text or something else; seed or rows is no such number.
    """

    base: LanguageModel | CompletionsModel
    value: Value | None
    search: Search
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()
    seed: int = 0
    rows: int = 256

    def __post_init__(self) -> None:
        for text in self.stop:
            if not isinstance(text, str):
                raise ConfigurationError(f"stop holds {text!r}, which is no text: give texts")
            if not text:
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
        one = isinstance(prompts, str | Mapping) or not isinstance(prompts, Sized)  # a mistake is named below
        one = one or (len(prompts) > 0 and isinstance(prompts[0], Mapping))
        several = cast(Sequence[PromptInput], [prompts] if one else prompts)
        texts = [_text(group) for group in self.hypotheses(several, max_new_tokens, progress=progress)]
        return texts[0] if one else texts

    def hypotheses(
        self, prompts: Sequence[PromptInput], max_new_tokens: int | None = None, *, progress: bool = False
    ) -> list[list[Hypothesis]]:
        """The finished hypotheses of each prompt, best first, with their token ids, values and why they ended.

        `Search(keep=n)` says how many. Values are in nats where a pair guides, else in the reward's unit.

        Raises:
            ModelError: a prompt leaves no room for a response in a model's context, or holds a token without embedding.
        """
        proposer, search, numbered = self._proposer(), self._search(max_new_tokens), _numbered(prompts)
        for prompt in numbered:  # before anything is decoded that would be lost
            raise_if_too_long(search.too_long(prompt, proposer, self.value))
        size = block_size(self.rows, search.candidates)
        answers: list[list[Hypothesis]] = []
        with watching(quiet=not progress) as watch, watch("generate") as advance:
            for first in range(0, len(numbered), size):
                advance(first, len(numbered))
                answers += search.run(numbered[first : first + size], proposer, self.value)
            advance(len(numbered), len(numbered))
        return answers

    def stream(self, prompt: PromptInput, max_new_tokens: int | None = None) -> Iterator[str]:
        """The response of `generate` in pieces, each yielded as soon as all beams agree on it.

        Plain sampling gives token by token, chunk-level beam search at most a chunk at a time; best-of-N, whose
        samples have nothing in common, gives all at its end, and so does plain sampling behind an endpoint.
        """
        search = self._search(max_new_tokens)
        if search.candidates == 1 and not isinstance(self.base, CompletionsModel):
            search = replace(search, chunk=1)
        (numbered,), proposer = _numbered([prompt]), self._proposer()
        raise_if_too_long(search.too_long(numbered, proposer, self.value))
        yielded = ""
        for step in search.steps([numbered], proposer, self.value):
            agreed = agreed_text(step.kept[0])
            if len(agreed) > len(yielded) and not step.finished:
                yield agreed[len(yielded) :]
                yielded = agreed
        rest = _text(search.answers(step)[0])[len(yielded) :]
        if rest:
            yield rest

    def _proposer(self) -> Proposer:
        return proposer_of(self.base, self.sampling, self.seed, self.stop)

    def _search(self, max_new_tokens: int | None) -> Search:
        return self.search if max_new_tokens is None else replace(self.search, max_new_tokens=max_new_tokens)


def _text(hypotheses: Sequence[Hypothesis]) -> str:
    finish = hypotheses[0].finish
    if finish == "too_long":  # as only a server finds out
        raise_if_too_long("a prompt leaves no room for a response in a model's context")
    elif finish in SET_ASIDE:
        _log.warning("a prompt has no response: %s", SET_ASIDE[finish])
    return hypotheses[0].text


def _numbered(prompts: Sequence[PromptInput]) -> list[Prompt]:
    """The prompts with ids that follow from their contents alone; equal prompts have different ids.

    Raises:
        DataError: one is neither a text nor a list of messages.
    """
    seen: Counter[str] = Counter()
    numbered = []
    for number, value in enumerate(prompts, start=1):
        prompt = prompt_of(value, f"prompt {number}")
        content = json.dumps(prompt)
        numbered.append(Prompt(prompt_id(content, seen[content]), prompt))
        seen[content] += 1
    return numbered


def prompt_id(content: str, number: int) -> str:
    """The id of the prompt whose JSON is `content`, the `number`-th of equal ones, from which its random numbers
    follow."""
    return f"{content} {number}"
