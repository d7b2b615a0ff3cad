"""A model under a guide: responses to prompts, or one response in pieces while it is decoded."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast, overload

import pandas as pd

from trimtab.config.search import SamplingConfig
from trimtab.errors import ConfigurationError, DataError, check_count, check_type, shown
from trimtab.messages import prompt_of
from trimtab.models.language_model import LanguageModel, StatefulModel, raise_if_too_long
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


@dataclass(frozen=True, repr=False)
class GuidedModel:
    """What `Guide.steer` makes. `dataclasses.replace` gives one with other settings.

    `rows` candidates are decoded together: more are faster, and take more memory.

    Raises:
        ConfigurationError: an argument is of another type; `stop` holds an empty text; seed or rows is no such number.
    """

    base: LanguageModel | CompletionsModel
    value: Value | None
    search: Search
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()
    seed: int = 0
    rows: int = 256

    def __post_init__(self) -> None:
        check_type("base", self.base, StatefulModel | CompletionsModel, "a model as trimtab.load gives it")
        check_type("value", self.value, Value | None, "a value of candidates, or None")
        check_type("search", self.search, Search, "a trimtab.Search")
        check_type("sampling", self.sampling, SamplingConfig, "a trimtab.SamplingConfig")
        check_type("stop", self.stop, tuple, "a tuple of texts")
        for text in self.stop:
            if not isinstance(text, str):
                raise ConfigurationError(f"stop holds {text!r}, which is no text: give texts")
            if not text:
                raise ConfigurationError("stop holds an empty text, at which every response ends: leave it out")
        check_count("seed", self.seed, 0)
        check_count("rows", self.rows)

    def __repr__(self) -> str:
        value = "" if self.value is None else f", by {self.value!r}"
        return f"<GuidedModel {self.base!r}, {self.search!r}{value}>"

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
        single = isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable)
        several = [cast(PromptInput, prompts)] if single else _several(prompts)
        conversation = not single and bool(several) and isinstance(several[0], Mapping)
        one, given = single or conversation, [cast(PromptInput, several)] if conversation else several
        texts = [_text(group) for group in self.hypotheses(given, max_new_tokens, progress=progress)]
        return texts[0] if one else texts

    def hypotheses(
        self, prompts: Sequence[PromptInput], max_new_tokens: int | None = None, *, progress: bool = False
    ) -> list[list[Hypothesis]]:
        """The finished hypotheses of each prompt, best first, with their token ids, values and why they ended.

        `Search(keep=n)` says how many. Values are in nats where a pair guides, else in the reward's unit.

        Raises:
            DataError: a prompt is neither a text nor a list of messages, or `prompts` is one text.
            ModelError: a prompt leaves no room for a response in a model's context, or holds a token without embedding.
        """
        proposer, search, numbered = self._proposer(), self._search(max_new_tokens), _numbered(_several(prompts))
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


def _several(prompts: Any) -> list[PromptInput]:
    """Prompts as a list: of a list, a tuple, an array, a column or an iterator.

    Raises:
        DataError: it is one text, has no order, or is something else.
    """
    refused = str | bytes | bytearray | Mapping | Set | pd.DataFrame  # a table gives the names of its columns
    if isinstance(prompts, refused) or not isinstance(prompts, Iterable):
        raise DataError(f"the prompts are {shown(prompts)}: give a list of texts, or of lists of messages")
    return list(prompts)


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
