"""A transformers model as a `LanguageModel`: it is composed, never wrapped or patched.

Reads only new tokens, each once per row, through a `SlotCache`.

    >>> model = CachedModel(causal_lm, Vocabulary(tokenizer), template="{prompt}")    # doctest: +SKIP
    >>> model.next_logits(model.start(["I really"], room=40)).shape                         # doctest: +SKIP
    torch.Size([1, 49152])
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.attention import CACHE_ATTENTION
from trimtab.models.context import context_of
from trimtab.models.device import on_device
from trimtab.models.flop_count import Work, body_weights
from trimtab.models.kv_cache import SlotCache
from trimtab.models.language_model import ModelSize, check_ids, check_length, check_text, cut_to, why_too_long
from trimtab.models.lm_head import LMHead, check_numbers, head_of
from trimtab.models.placement import input_device
from trimtab.models.static_step import MEMORY_FRACTION, CudaGraphs, Record, StaticSteps
from trimtab.models.vocabulary import Vocabulary
from trimtab.records import PromptInput

GROWTH = 16  # spare columns where a cache has to grow
TOKENS = 2048  # read at a time on a CPU: their activations stay in its cache
TOKENS_ON_ACCELERATOR = 32_768


@dataclass
class CachedState:
    """Rows of ids, how many of each are prompt, and how many of each the cache holds.

    `apart`: the model reads them by its own body, though it has been given another (`with_body`).
    """

    ids: list[list[int]]
    prompt_lengths: list[int]
    cached: list[int]
    cache: SlotCache
    apart: bool = False

    def select(self, rows: Sequence[int]) -> "CachedState":
        device = self.cache.device or torch.device("cpu")
        index = on_device(rows, device)
        cached = [self.cached[row] for row in rows]
        return CachedState(
            ids=[list(self.ids[row]) for row in rows],
            prompt_lengths=[self.prompt_lengths[row] for row in rows],
            cached=cached,
            cache=self.cache.select(index, max(cached, default=0), self.cache.capacity),
            apart=self.apart,
        )

    def append(self, tokens: Sequence[int | None]) -> None:
        for ids, token in zip(self.ids, tokens, strict=True):
            if token is not None:
                ids.append(int(token))

    def rewind(self, lengths: Sequence[int | None]) -> None:
        """Cut row r back to its first lengths[r] tokens, the last of which will be read again; None leaves it alone."""
        for row, length in enumerate(lengths):
            if length is None:
                continue
            assert self.prompt_lengths[row] <= length <= len(self.ids[row])
            del self.ids[row][length:]
            self.cached[row] = min(self.cached[row], length - 1)

    def pending(self) -> list[list[int]]:
        """Each row's tokens that have not been read: its last one."""
        return [ids[cached:] for ids, cached in zip(self.ids, self.cached, strict=True)]


class CachedModel:
    """A causal language model of transformers with a prompt template. Its weights may be shared with others.

    `head` is its head where that is known already. Whether a model of some unknown family reads through the cache as
    it does without is for `families.language_model_of` to find out.

    Raises:
        ModelError: its logits are no function of its output embedding that `LMHead` knows, or no numbers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        template: str = "{prompt}",
        name: str | None = None,
        head: LMHead | None = None,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.template = template
        self.name = name or str(model.config._name_or_path)
        self._work = Work()
        self._begin: Callable[[], None] = lambda: None
        self._fits: Callable[[Sequence[Sequence[int]]], bool] = lambda prompts: True
        if head is None and (head := head_of(model)) is None:
            check_numbers(model)
            raise ModelError(f"{self.name} changes its logits after the output embedding: it has no cached decoding")
        self.vocab_size = min(model.get_input_embeddings().weight.shape[0], head.size)
        self._head = (
            head if head.size == self.vocab_size else head.narrowed(self.vocab_size)
        )  # what it predicts, it can read
        if model.config._attn_implementation in CACHE_ATTENTION and model._can_set_attn_implementation():
            model.set_attn_implementation(CACHE_ATTENTION[model.config._attn_implementation])
        self._body = self._own_body = model.base_model
        self._device = input_device(model)
        self._layers = int(model.config.get_text_config().num_hidden_layers)
        self.context = context_of(model)
        self._tokens = TOKENS if self._device.type == "cpu" else TOKENS_ON_ACCELERATOR
        self._body_weights = self._own_weights = body_weights(model)
        self._static: StaticSteps | None = None
        if self._device.type == "cuda" and {part.device for part in model.parameters()} == {self._device}:
            free, _ = torch.cuda.mem_get_info(self._device)
            self.record_steps(CudaGraphs(self._device), int(MEMORY_FRACTION * free))

    def record_steps(self, record: Record, budget: int) -> None:
        """Decode by recorded steps, whose keys and values take up to `budget` bytes; on CUDA it does so anyway."""
        self._static = StaticSteps(self._forward, record, budget)

    @property
    def flops(self) -> float:
        """Forward FLOPs so far: 2 per weight of the body and token, and of the head where it was applied."""
        return self._work.flops

    @property
    def size(self) -> ModelSize:
        """The weights that a token is multiplied with."""
        return ModelSize(body=float(self._body_weights), head=float(self._head.weight.numel()))

    def narrowed(self, rows: int) -> "CachedModel":
        if rows >= self._head.size:
            return self
        other = copy.copy(self)
        other._head, other.vocab_size = self._head.narrowed(rows), min(rows, self.vocab_size)
        return other

    def too_long(self, prompt: PromptInput, room: int) -> str | None:
        return why_too_long(self, len(self.vocabulary.encode_prompt(prompt, self.template)), room)

    @property
    def tokens_read(self) -> int:
        """How many tokens it has read so far, each of each row once, padding apart."""
        return self._work.tokens

    def reset_work(self) -> None:
        """Count tokens and FLOPs from zero again."""
        self._work = Work()

    def with_body(
        self,
        body: torch.nn.Module,
        idle_weights: int,
        begin: Callable[[], None],
        fits: Callable[[Sequence[Sequence[int]]], bool],
    ) -> "CachedModel":
        """This model with another body in its place, of whose weights so many do nothing; FLOPs are counted with it.

        `begin` is called whenever the model is asked for something, before the body is. `fits` says of prompts' ids
        whether the body can read them and what follows; elsewhere the model's own body reads.
        """
        other = copy.copy(self)
        other._body, other._body_weights = body, self._own_weights - idle_weights
        other._begin, other._fits = begin, fits
        other._static = None  # a body that passes tensors on beside its output cannot be recorded
        return other

    def start(self, prompts: Sequence[PromptInput], room: int, *, truncate: bool = False) -> CachedState:
        encoded = [self.vocabulary.encode_prompt(prompt, self.template) for prompt in prompts]
        return self.start_ids([cut_to(self, ids, room) for ids in encoded] if truncate else encoded, room)

    @torch.inference_mode()
    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> CachedState:
        """`start` from ids, each at least one."""
        self._begin()
        longest = max(map(len, prompts), default=1)
        check_length(self, longest, room)
        check_ids(self.name, self.vocabulary, self.vocab_size, prompts)
        state = CachedState(
            ids=[list(ids) for ids in prompts],
            prompt_lengths=[len(ids) for ids in prompts],
            cached=[0] * len(prompts),
            cache=SlotCache.empty(self._layers, len(prompts), longest + room + 1),
            apart=not self._fits(prompts),
        )
        if longest > 1:
            self._read(state, [ids[:-1] for ids in prompts])
        return state

    @torch.inference_mode()
    def next_logits(self, state: CachedState) -> torch.Tensor:
        self._begin()
        if not any(state.pending()):
            state.rewind([len(ids) for ids in state.ids])  # asked for the second time: the last tokens are read again
        hidden = self._read(state, state.pending())
        self._count_heads(len(state.ids))
        return self._head.logits(hidden[:, -1])

    @torch.inference_mode()
    def score(
        self, state: CachedState, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[CachedState, list[list[float]]]:
        self._begin()
        check_ids(self.name, self.vocabulary, self.vocab_size, tokens)
        # A parent's last token is read once, however many children it has: their first new token is predicted from
        # the same hidden state. Children that are cut back read the token at their cut again, each for itself.
        uncut = [bool(new) and kept == len(state.ids[p]) for p, kept, new in zip(parents, keep, tokens, strict=True)]
        roots = {parent for parent, whole in zip(parents, uncut, strict=True) if whole}
        # after `next_logits` a root's last token has been read, and what it predicts is not remembered
        state.rewind([len(ids) if row in roots else None for row, ids in enumerate(state.ids)])
        root_hidden = self._read(state, [ids if row in roots else [] for row, ids in enumerate(state.pending())])
        children = state.select(parents)
        children.rewind([None if whole else kept for whole, kept in zip(uncut, keep, strict=True)])
        feeds = [
            [*ids[cached:], *new][:-1] if whole or new else []
            for ids, cached, new, whole in zip(children.ids, children.cached, tokens, uncut, strict=True)
        ]
        hidden = self._read(children, feeds)
        for ids, new in zip(children.ids, tokens, strict=True):
            ids.extend(int(token) for token in new)

        # One row of `flat` for each hidden state that predicts something: the roots', then each child's own.
        order = sorted(roots)
        count = hidden.shape[1]
        own = [place for row, feed in enumerate(feeds) for place in range(row * count, row * count + len(feed))]
        first_of, device = root_hidden[:, :1].flatten(0, 1), hidden.device
        flat = torch.cat([first_of[on_device(order, device)], hidden.flatten(0, 1)[on_device(own, device)]])
        root_row = {root: row for row, root in enumerate(order)}
        sources: list[int] = []
        first = len(order)
        for parent, whole, feed in zip(parents, uncut, feeds, strict=True):
            sources += ([root_row[parent]] if whole else []) + list(range(first, first + len(feed)))
            first += len(feed)
        self._count_heads(len(flat))
        return children, self._head.log_probabilities(flat, sources, tokens)

    def _count_heads(self, rows: int) -> None:
        self._work.flops += 2.0 * self._head.weight.numel() * rows

    def _read(self, state: CachedState, feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read feeds[r] at the end of what row r's cache holds; hidden states [rows, longest feed, width]."""
        sizes = [len(feed) for feed in feeds]
        count = max(sizes, default=0)
        needed = max(state.cached, default=0) + count
        ends = [cached + size for cached, size in zip(state.cached, sizes, strict=True)]
        check_text(self, max(ends, default=0))
        if needed > state.cache.capacity:
            everything = torch.arange(len(state.ids), device=self._device)
            state.cache = state.cache.select(everything, max(state.cached), needed + GROWTH)
        shape = len(feeds), count, self._head.weight.shape[1]
        if count == 0:
            return torch.empty(shape, device=self._head.device, dtype=self._head.weight.dtype)
        hidden = None
        if count == 1 and self._static is not None:
            hidden = self._static.read(state.cache, [feed[0] if feed else 0 for feed in feeds], state.cached)
        if hidden is None:
            at_a_time = max(1, self._tokens // count)
            parts = [
                self._read_window(state, slice(first, first + at_a_time), feeds[first : first + at_a_time], count)
                for first in range(0, len(feeds), at_a_time)
            ]
            hidden = torch.cat(parts) if len(parts) > 1 else parts[0]
        state.cached = ends
        tokens = sum(sizes)
        self._work.tokens += tokens
        self._work.flops += 2.0 * (self._own_weights if state.apart else self._body_weights) * tokens
        return hidden

    def _read_window(self, state: CachedState, rows: slice, feeds: Sequence[Sequence[int]], count: int) -> torch.Tensor:
        """Hidden states [rows, count, width] of the feeds of these rows, padded to `count`."""
        starts, device = state.cached[rows], self._device
        padded = [[*feed, *[0] * (count - len(feed))] for feed in feeds]
        ids, first = on_device(padded, device), on_device(starts, device)
        return self._forward(ids, state.cache, rows, first, max(starts) + count, apart=state.apart)

    def _forward(
        self, ids: torch.Tensor, cache: SlotCache, rows: slice, starts: torch.Tensor, used: int, apart: bool = False
    ) -> torch.Tensor:
        """Hidden states [rows, new, width] of new ids [rows, new] from columns starts[r] on, of `used` in all."""
        positions = cache.place(rows, starts, ids.shape[1], used)
        output = (self._own_body if apart else self._body)(
            input_ids=ids,
            position_ids=positions.clamp(max=self.context - 1),  # padding may lie beyond the last position
            past_key_values=cache,
            use_cache=True,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden.to(self._head.device, self._head.weight.dtype)  # a head may have another type than the body
