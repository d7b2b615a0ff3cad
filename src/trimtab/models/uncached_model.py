"""A transformers model as a `LanguageModel` without a cache: every text is read anew, whole, each time.

For models whose memory of a text cannot be forked or cut back, such as state-space ones. Slower, and just as exact.

    >>> model = UncachedModel(causal_lm, Vocabulary(tokenizer), "{prompt}", "mamba", head)  # doctest: +SKIP
    >>> model.next_logits(model.start(["I really"], room=40)).shape                         # doctest: +SKIP
    torch.Size([1, 50280])
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from trimtab.models.cached_model import TOKENS
from trimtab.models.context import context_of
from trimtab.models.flop_count import Work, body_weights
from trimtab.models.language_model import ModelSize, check_ids, check_length, check_text, cut_to, why_too_long
from trimtab.models.lm_head import LMHead
from trimtab.models.placement import input_device
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput


@dataclass
class UncachedState:
    """Rows of ids, and how many of each are prompt; nothing else is remembered."""

    ids: list[list[int]]
    prompt_lengths: list[int]

    def select(self, rows: Sequence[int]) -> "UncachedState":
        return UncachedState([list(self.ids[row]) for row in rows], [self.prompt_lengths[row] for row in rows])

    def append(self, tokens: Sequence[int | None]) -> None:
        for ids, token in zip(self.ids, tokens, strict=True):
            if token is not None:
                ids.append(int(token))


class _GivenLogits:
    """In the place of a `LMHead` where a model's logits are no function of its body's output that `LMHead` knows."""

    def __init__(self, size: int) -> None:
        self.size = size

    def narrowed(self, size: int) -> "_GivenLogits":
        return _GivenLogits(size)

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, : self.size]

    def log_probabilities(
        self, logits: torch.Tensor, sources: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        logs = self.logits(logits).log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        flat = [int(token) for row in tokens for token in row]
        values = iter(logs[list(sources), flat].tolist())
        return [[next(values) for _ in row] for row in tokens]


class UncachedModel:
    """A causal language model of transformers with a prompt template; without a `head`, its own logits are taken.

    `reason` says why it is not read through a cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        template: str,
        name: str,
        head: LMHead | None,
        reason: str = "",
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.template = template
        self.name = name
        self.reason = reason
        self._work = Work()
        found = head or _GivenLogits(model.get_output_embeddings().weight.shape[0])
        self.vocab_size = min(model.get_input_embeddings().weight.shape[0], found.size)
        self._head = found.narrowed(self.vocab_size)
        self._body = model if head is None else model.base_model
        self._device = input_device(model)
        self.context = context_of(model)
        self._body_weights = body_weights(model)
        self._head_weights = model.get_output_embeddings().weight.numel()

    @property
    def flops(self) -> float:
        """Forward FLOPs so far, every reading of a token counted."""
        return self._work.flops

    @property
    def tokens_read(self) -> int:
        """How many tokens it has read so far, each as often as it was read, padding apart."""
        return self._work.tokens

    @property
    def size(self) -> ModelSize:
        """The weights that a token is multiplied with."""
        return ModelSize(body=float(self._body_weights), head=float(self._head_weights))

    def narrowed(self, rows: int) -> "UncachedModel":
        if rows >= self._head.size:
            return self
        other = copy.copy(self)
        other._head, other.vocab_size = self._head.narrowed(rows), min(rows, self.vocab_size)
        return other

    def too_long(self, prompt: PromptInput, room: int) -> str | None:
        return why_too_long(self, len(self.vocabulary.encode_prompt(prompt, self.template)), room)

    def start(self, prompts: Sequence[PromptInput], room: int, *, truncate: bool = False) -> UncachedState:
        encoded = [self.vocabulary.encode_prompt(prompt, self.template) for prompt in prompts]
        return self.start_ids([cut_to(self, ids, room) for ids in encoded] if truncate else encoded, room)

    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> UncachedState:
        """`start` from ids, each at least one."""
        check_length(self, max(map(len, prompts), default=1), room)
        check_ids(self.name, self.vocabulary, self.vocab_size, prompts)
        return UncachedState([list(ids) for ids in prompts], [len(ids) for ids in prompts])

    @torch.inference_mode()
    def next_logits(self, state: UncachedState) -> torch.Tensor:
        return self._head.logits(self._read(state.ids, [slice(len(ids) - 1, None) for ids in state.ids]))

    @torch.inference_mode()
    def score(
        self, state: UncachedState, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[UncachedState, list[list[float]]]:
        check_ids(self.name, self.vocabulary, self.vocab_size, tokens)
        children = state.select(parents)
        for ids, kept, new in zip(children.ids, keep, tokens, strict=True):
            ids[kept:] = [int(token) for token in new]
        grown = [row for row, new in enumerate(tokens) if new]
        if not grown:
            return children, [[] for _ in tokens]
        # the last new token predicts nothing yet, and is not read
        hidden = self._read([children.ids[row][:-1] for row in grown], [slice(keep[row] - 1, None) for row in grown])
        return children, self._head.log_probabilities(hidden, range(sum(map(len, tokens))), tokens)

    def _read(self, rows: Sequence[Sequence[int]], wanted: Sequence[slice]) -> torch.Tensor:
        """What the body gives at the wanted places of each row, one after the other, [places, width]."""
        check_text(self, max(map(len, rows)))
        found = []
        for part in self._batches(rows):
            group = rows[part]
            longest = max(map(len, group))
            # a causal body knows nothing of the padding behind a text
            padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in group], device=self._device)
            output = self._body(input_ids=padded, use_cache=False)
            given = output.logits if isinstance(self._head, _GivenLogits) else output.last_hidden_state
            found += [each[: len(row)][places] for each, row, places in zip(given, group, wanted[part], strict=True)]
        tokens, places = sum(map(len, rows)), sum(map(len, found))
        self._work.tokens += tokens
        self._work.flops += 2.0 * (self._body_weights * tokens + self._head_weights * places)
        flat = torch.cat(found)
        # some bodies give float32 to a head of 16 bits (Mamba)
        return flat.to(self._head.device, self._head.weight.dtype) if isinstance(self._head, LMHead) else flat

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Rows that are read at once: of one length, where code of someone else's may look at the padding."""
        at_a_time = max(1, TOKENS // max(map(len, rows)))
        apart = isinstance(self._head, _GivenLogits)
        first = 0
        for end in range(1, len(rows) + 1):
            full = end - first == at_a_time or end == len(rows)
            if full or (apart and len(rows[end]) != len(rows[first])):
                yield slice(first, end)
                first = end
