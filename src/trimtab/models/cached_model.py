"""A transformers model as a `LanguageModel` that reads only new tokens, each once per row, through a `SlotCache`."""

import copy
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from trimtab.errors import ModelError
from trimtab.models.attention import CACHE_ATTENTION
from trimtab.models.device import on_device
from trimtab.models.kv_cache import SlotCache
from trimtab.models.lm_head import LMHead, head_of
from trimtab.models.static_step import MEMORY_FRACTION, CudaGraphs, Record, StaticSteps, bucket
from trimtab.models.transformers_model import TOKENS_AT_ONCE, TokenRows, TransformersModel
from trimtab.models.vocabulary import Vocabulary

SPARE_COLUMNS = 16  # added when a cache has to grow, beyond the columns that are needed now
TOKENS_AT_ONCE_ON_ACCELERATOR = 32_768


@dataclass
class CachedState(TokenRows):
    """Rows of ids, and how many tokens of each row the cache holds.

    `uses_own_body`: the model reads these rows by its own body although it was given another one (`with_body`).
    """

    cached: list[int]
    cache: SlotCache
    uses_own_body: bool = False

    def select(self, rows: Sequence[int]) -> "CachedState":
        index = on_device(rows, self.cache.device or torch.device("cpu"))
        cached = [self.cached[row] for row in rows]
        return CachedState(
            ids=[list(self.ids[row]) for row in rows],
            prompt_lengths=[self.prompt_lengths[row] for row in rows],
            cached=cached,
            cache=self.cache.select(index, max(cached, default=0), self.cache.capacity),
            uses_own_body=self.uses_own_body,
        )

    @property
    def kind(self) -> Hashable:
        return self.uses_own_body

    def place(self, source: "CachedState", rows: Sequence[int], places: Sequence[int]) -> None:
        lengths = [source.cached[row] for row in rows]
        count, capacity = max(len(self.ids), *[place + 1 for place in places]), self.cache.capacity
        if count > self.cache.rows or source.cache.capacity > capacity:
            room = max(capacity, source.cache.capacity)
            self.cache = self.cache.grown(bucket(count) if count > self.cache.rows else self.cache.rows, room)
        device = source.cache.device or torch.device("cpu")
        self.cache.put(source.cache, on_device(rows, device), on_device(places, device), max(lengths))
        super().place(source, rows, places)
        for place, length in zip(places, lengths, strict=True):
            self.cached[place : place + 1] = [length]

    def truncate(self, count: int) -> None:
        super().truncate(count)
        del self.cached[count:]

    def read_again(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.cached[row] = min(self.cached[row], len(self.ids[row]) - 1)

    def rewind(self, lengths: Sequence[int | None]) -> None:
        """Cut row r back to its first lengths[r] tokens, the last of which will be read again; None leaves it alone."""
        for row, length in enumerate(lengths):
            if length is None:
                continue
            assert self.prompt_lengths[row] <= length <= len(self.ids[row])
            del self.ids[row][length:]
            self.cached[row] = min(self.cached[row], length - 1)

    def unread(self) -> list[list[int]]:
        """The tokens of each row that the cache does not hold: at most its last one."""
        return [ids[cached:] for ids, cached in zip(self.ids, self.cached, strict=True)]


class CachedModel(TransformersModel[CachedState]):
    """A causal language model of transformers, decoded through a cache.

    `families.language_model_of`, not this class, checks that a model of an unknown family computes the same with the
    cache as without.

    Args:
        template: the text around a string prompt, as in `open_model.load`.
        name: what messages call the model; None: the name in its configuration.
        head: computes logits from the body's output; None: it is looked for (`head_of`).

    Raises:
        ModelError: no `LMHead` computes the model's logits, or they are not numbers.
    """

    _head: LMHead

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        template: str = "{prompt}",
        name: str | None = None,
        head: LMHead | None = None,
    ) -> None:
        name = name or str(model.config._name_or_path)
        if head is None and (head := head_of(model)) is None:
            raise ModelError(f"{name} changes its logits after the output embedding: it has no cached decoding")
        super().__init__(model, vocabulary, template, name, head)
        if model.config._attn_implementation in CACHE_ATTENTION and model._can_set_attn_implementation():
            model.set_attn_implementation(CACHE_ATTENTION[model.config._attn_implementation])
        # `with_body` replaces the body and its two functions in a copy, which still needs the model's own body
        self._body = self._own_body = model.base_model
        self._own_weights = self._body_weights
        self._before_call: Callable[[], None] = lambda: None
        self._can_read: Callable[[Sequence[Sequence[int]]], bool] = lambda prompts: True
        self._layers = int(model.config.get_text_config().num_hidden_layers)
        self._tokens_per_call = TOKENS_AT_ONCE if self._device.type == "cpu" else TOKENS_AT_ONCE_ON_ACCELERATOR
        self._static: StaticSteps | None = None
        if self._device.type == "cuda" and {weight.device for weight in model.parameters()} == {self._device}:
            free, _ = torch.cuda.mem_get_info(self._device)
            self.record_steps(CudaGraphs(self._device), int(MEMORY_FRACTION * free))

    def record_steps(self, record: Record, budget: int) -> None:
        """Decode by recorded steps whose keys and values take up to `budget` bytes. On CUDA this is the default."""
        self._static = StaticSteps(self._forward, record, budget)

    def with_body(
        self,
        body: torch.nn.Module,
        idle_weights: int,
        before_call: Callable[[], None],
        can_read: Callable[[Sequence[Sequence[int]]], bool],
    ) -> "CachedModel":
        """A copy of this model that computes hidden states with another body; both count FLOPs in the same counter.

        Args:
            idle_weights: number of the body's weights that are skipped, and not counted as FLOPs.
            before_call: is called first in each call of the model.
            can_read: takes the ids of a call's prompts, and says whether the other body can compute these rows. If
                not, the model's own body does.
        """
        other = copy.copy(self)
        other._body, other._body_weights = body, self._own_weights - idle_weights
        other._before_call, other._can_read = before_call, can_read
        other._static = None  # a body that passes tensors on beside its output cannot be recorded
        return other

    @torch.inference_mode()
    def start_ids(self, prompts: Sequence[Sequence[int]], room: int) -> CachedState:
        self._before_call()
        state = self._unread_state(prompts, room)
        if max(map(len, prompts), default=1) > 1:
            self._read(state, [ids[:-1] for ids in prompts])
        return state

    def _unread_state(self, prompts: Sequence[Sequence[int]], room: int) -> CachedState:
        self._check_prompts(prompts, room)
        return CachedState(
            ids=[list(ids) for ids in prompts],
            prompt_lengths=[len(ids) for ids in prompts],
            cached=[0] * len(prompts),
            cache=SlotCache.empty(self._layers, len(prompts), max(map(len, prompts), default=1) + room + 1),
            uses_own_body=not self._can_read(prompts),
        )

    def _starting(self, prompts: Sequence[list[int]], room: int, tokens: int) -> Generator[None, None, CachedState]:
        self._before_call()
        state = self._unread_state(prompts, room)
        share = max(1, tokens // max(1, len(prompts)))
        for first in range(0, max(map(len, prompts), default=1) - 1, share):
            if first:
                yield
                self._before_call()
            with torch.inference_mode():
                self._read(state, [ids[first : min(first + share, len(ids) - 1)] for ids in prompts])
        return state

    @torch.inference_mode()
    def logits_along(self, ids: Sequence[int], tokens: int) -> Iterator[torch.Tensor]:
        self._before_call()
        state = self._unread_state([ids], 0)
        for first in range(0, len(ids), tokens):
            hidden = self._read(state, [ids[first : first + tokens]])
            self._work.flops += 2.0 * self._head_weights * hidden.shape[1]
            yield self._head.logits(hidden[0])

    @torch.inference_mode()
    def next_logits(self, state: CachedState) -> torch.Tensor:
        self._before_call()
        if not any(state.unread()):
            # a second call for the same state reads the last tokens again
            state.rewind([len(ids) for ids in state.ids])
        hidden = self._read(state, state.unread())
        self._work.flops += 2.0 * self._head_weights * len(state.ids)
        return self._head.logits(hidden[:, -1])

    @torch.inference_mode()
    def score(
        self, state: CachedState, parents: Sequence[int], keep: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[CachedState, list[list[float]]]:
        self._before_call()
        self._check_ids(tokens)
        # A parent's last token is read once, however many children it has: their first new token is predicted from
        # the same hidden state. Children that are cut back read the token at their cut again, each for itself.
        uncut = [bool(new) and kept == len(state.ids[p]) for p, kept, new in zip(parents, keep, tokens, strict=True)]
        roots = {parent for parent, whole in zip(parents, uncut, strict=True) if whole}
        # after `next_logits` a root's last token has been read, and its hidden state is not kept
        state.rewind([len(ids) if row in roots else None for row, ids in enumerate(state.ids)])
        root_hidden = self._read(state, [ids if row in roots else [] for row, ids in enumerate(state.unread())])
        children = state.select(parents)
        children.rewind([None if whole else kept for whole, kept in zip(uncut, keep, strict=True)])
        feeds = [
            [*ids[cached:], *new][:-1] if whole or new else []
            for ids, cached, new, whole in zip(children.ids, children.cached, tokens, uncut, strict=True)
        ]
        hidden = self._read(children, feeds)
        for ids, new in zip(children.ids, tokens, strict=True):
            ids.extend(int(token) for token in new)

        # One row of `flat` for each hidden state that predicts something: the roots', then each child's.
        order = sorted(roots)
        count = hidden.shape[1]
        read = [index for row, feed in enumerate(feeds) for index in range(row * count, row * count + len(feed))]
        first_of, device = root_hidden[:, :1].flatten(0, 1), hidden.device
        flat = torch.cat([first_of[on_device(order, device)], hidden.flatten(0, 1)[on_device(read, device)]])
        root_row = {root: row for row, root in enumerate(order)}
        sources: list[int] = []
        first = len(order)
        for parent, whole, feed in zip(parents, uncut, feeds, strict=True):
            sources += ([root_row[parent]] if whole else []) + list(range(first, first + len(feed)))
            first += len(feed)
        self._work.flops += 2.0 * self._head_weights * len(flat)
        return children, self._head.log_probabilities(flat, sources, tokens)

    def _read(self, state: CachedState, feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read feeds[r] at the end of what row r's cache holds; hidden states [rows, longest feed, width]."""
        sizes = [len(feed) for feed in feeds]
        count = max(sizes, default=0)
        needed = max(state.cached, default=0) + count
        ends = [cached + size for cached, size in zip(state.cached, sizes, strict=True)]
        self._check_length(max(ends, default=0))
        if needed > state.cache.capacity:
            all_rows = torch.arange(len(state.ids), device=self._device)
            state.cache = state.cache.select(all_rows, max(state.cached), needed + SPARE_COLUMNS)
        weight = self._head.weight
        if count == 0:
            return torch.empty((len(feeds), 0, weight.shape[1]), device=weight.device, dtype=weight.dtype)
        hidden = None
        if count == 1 and self._static is not None:
            hidden = self._static.read(state.cache, [feed[0] if feed else 0 for feed in feeds], state.cached)
        if hidden is None:
            batch_size = max(1, self._tokens_per_call // count)
            parts = []
            for first in range(0, len(feeds), batch_size):
                rows = slice(first, min(first + batch_size, len(feeds)))  # the cache may have room for more rows
                padded = [[*feed, *[0] * (count - len(feed))] for feed in feeds[rows]]
                ids, starts = on_device(padded, self._device), on_device(state.cached[rows], self._device)
                used = max(state.cached[rows]) + count
                parts.append(self._forward(ids, state.cache, rows, starts, used, state.uses_own_body))
            hidden = torch.cat(parts) if len(parts) > 1 else parts[0]
        state.cached = ends
        tokens = sum(sizes)
        self._work.tokens += tokens
        self._work.flops += 2.0 * (self._own_weights if state.uses_own_body else self._body_weights) * tokens
        return hidden

    def _forward(
        self, ids: torch.Tensor, cache: SlotCache, rows: slice, starts: torch.Tensor, used: int, own_body: bool = False
    ) -> torch.Tensor:
        """Hidden states [rows, new, width] of new ids [rows, new] from columns starts[r] on, of `used` in all."""
        positions = cache.prepare(rows, starts, ids.shape[1], used)
        output = (self._own_body if own_body else self._body)(
            input_ids=ids,
            position_ids=positions.clamp(max=self.context - 1),  # padding may lie beyond the last position
            past_key_values=cache,
            use_cache=True,
        )
        hidden: torch.Tensor = output.last_hidden_state
        weight = self._head.weight  # whose device and type may differ from the body's
        return hidden.to(weight.device, weight.dtype)
