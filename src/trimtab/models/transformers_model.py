"""What the two ways of decoding a transformers model have in common: how prompts are read, and how work is counted."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from trimtab.models.context import context_of
from trimtab.models.language_model import State, check_ids, raise_if_too_long
from trimtab.models.lm_head import LMHead, ModelLogits
from trimtab.models.placement import input_device
from trimtab.models.sizes import ModelSize
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput

TOKENS_AT_ONCE = 2048  # read in one call on a CPU: their activations stay in its cache


@dataclass
class TokenRows:
    """Rows of ids, and how many of each are prompt."""

    ids: list[list[int]]
    prompt_lengths: list[int]

    def select(self, rows: Sequence[int]) -> Self:
        return type(self)([list(self.ids[row]) for row in rows], [self.prompt_lengths[row] for row in rows])

    @property
    def kind(self) -> Hashable:
        return ()

    def place(self, source: Self, rows: Sequence[int], places: Sequence[int]) -> None:
        copies = [(list(source.ids[row]), source.prompt_lengths[row]) for row in rows]
        for place, (ids, length) in zip(places, copies, strict=True):
            self.ids[place : place + 1], self.prompt_lengths[place : place + 1] = [ids], [length]

    def truncate(self, count: int) -> None:
        del self.ids[count:], self.prompt_lengths[count:]

    def read_again(self, rows: Sequence[int]) -> None:
        pass  # every text is read anew for every token

    def append(self, tokens: Sequence[int | None]) -> None:
        for ids, token in zip(self.ids, tokens, strict=True):
            if token is not None:
                ids.append(int(token))


@dataclass
class Work:
    """What a model and its copies have done so far: tokens read and forward FLOPs."""

    tokens: int = 0
    flops: float = 0.0


class TransformersModel(ABC, Generic[State]):
    """A `LanguageModel` that holds a model of transformers, which is never patched and may share its weights."""

    def __init__(
        self, model: PreTrainedModel, vocabulary: Vocabulary, template: str, name: str, head: LMHead | ModelLogits
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.template = template
        self.name = name
        self.context = context_of(model)
        self.vocab_size = min(model.get_input_embeddings().weight.shape[0], head.size)  # it reads what it predicts
        self._head = head.narrowed(self.vocab_size)
        self._device = input_device(model)
        self._body_weights = body_weights(model)
        self._head_weights = model.get_output_embeddings().weight.numel()
        self._work = Work()

    @property
    def flops(self) -> float:
        """Forward FLOPs so far: 2 for each weight of the body and token read, and of the head where it was applied."""
        return self._work.flops

    @property
    def tokens_read(self) -> int:
        """How many tokens it has read so far, without padding; a token that is read twice counts twice."""
        return self._work.tokens

    def reset_work(self) -> None:
        """Count tokens and FLOPs from zero again."""
        self._work = Work()

    @property
    def size(self) -> ModelSize:
        return ModelSize(body=float(self._body_weights), head=float(self._head_weights))

    def narrowed(self, vocab_size: int) -> Self:
        if vocab_size >= self.vocab_size:
            return self
        other = copy.copy(self)
        other.vocab_size, other._head = vocab_size, self._head.narrowed(vocab_size)
        return other

    def __repr__(self) -> str:
        kind, dtype = self.model.config.model_type, str(self.model.dtype).removeprefix("torch.")
        where = f"{dtype} on {self._device}, template {self.template!r}"
        return f"<{type(self).__name__} {self.name or 'without a name'}: {kind}, {where}>"

    def too_long(self, prompt: PromptInput, room: int) -> str | None:
        return self._too_long(len(self.vocabulary.encode_prompt(prompt, self.template)), room)

    def _too_long(self, tokens: int, room: int) -> str | None:
        if tokens + room <= self.context:
            return None
        return f"a prompt of {tokens} tokens and {room} new ones exceed {self.name}'s context of {self.context}"

    def start(self, prompts: Sequence[PromptInput], room: int, *, truncate: bool = False) -> State:
        encoded = [self.vocabulary.encode_prompt(prompt, self.template) for prompt in prompts]
        if truncate:
            encoded = [ids[-max(1, self.context - room) :] for ids in encoded]
        return self.start_ids(encoded, room)

    @abstractmethod
    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> State: ...

    def starting(
        self, prompts: Sequence[PromptInput | tuple[int, ...]], room: int, tokens: int
    ) -> Generator[None, None, State]:
        return self._starting([self._encoded(prompt) for prompt in prompts], room, tokens)

    def _encoded(self, prompt: PromptInput | tuple[int, ...]) -> list[int]:
        return list(prompt) if isinstance(prompt, tuple) else self.vocabulary.encode_prompt(prompt, self.template)

    @abstractmethod
    def _starting(self, prompts: Sequence[list[int]], room: int, tokens: int) -> Generator[None, None, State]: ...

    @abstractmethod
    def logits_along(self, ids: Sequence[int], tokens: int) -> Iterator[torch.Tensor]: ...

    def _check_prompts(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        """Raise ModelError where a prompt leaves no room for `room` new tokens, or holds an id without an embedding."""
        raise_if_too_long(self._too_long(max(map(len, prompts), default=1), room))
        self._check_ids(prompts)

    def _check_ids(self, texts: Sequence[Sequence[int]]) -> None:
        check_ids(self.name, self.vocabulary, self.vocab_size, texts)

    def _check_length(self, tokens: int) -> None:
        """Raise ModelError where a text of this number of tokens is longer than the context."""
        if tokens > self.context:
            raise_if_too_long(f"a text of {tokens} tokens exceeds {self.name}'s context of {self.context}")


def body_weights(model: PreTrainedModel) -> int:
    """How many weights a token is multiplied with in the body: all but the embeddings' and the head's."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    sizes = {id(weight): weight.numel() for weight in (*tables, model.get_output_embeddings().weight)}
    return model.num_parameters() - sum(sizes.values())
