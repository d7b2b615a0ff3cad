"""A key-value cache whose rows have lengths of their own.

Every row begins at column 0 and is written at its own end, so rows of unlike lengths need no left padding, a row is cut
back by lowering its length, and columns beyond a row's length are never attended to.

    >>> cache = SlotCache.empty(layers=2, rows=2, capacity=64)
    >>> cache.prepare(slice(0, 2), torch.tensor([3, 5]), count=2, used=7)    # columns, which are the positions
    tensor([[3, 4],
            [5, 6]])
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

AHEAD = 32
"""Columns that are filled with zeros at a time, instead of one column at each step."""


class Places:
    """Where a read writes in each layer: row r's new tokens to columns[r], [rows, new].

    Layers of the same shape and device write to the same places, which are computed once for all of them.
    """

    def __init__(self, columns: torch.Tensor) -> None:
        self._columns = columns
        self._flat: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """Indices into `states.flatten(0, 2)` [rows * heads * capacity, dimension] by row, head and new token."""
        _, heads, capacity, _ = states.shape
        key = heads, capacity, states.device
        if key not in self._flat:
            columns = self._columns.to(states.device)  # layers may lie on several devices
            firsts = torch.arange(len(columns) * heads, device=states.device).view(-1, heads, 1) * capacity
            self._flat[key] = (firsts + columns[:, None]).flatten()
        return self._flat[key]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, capacity, head dimension], allocated at the first write."""

    is_sliding = False

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows = rows
        self.capacity = capacity
        self.window = slice(0, rows)  # the rows that are being read into
        self.places: Places | None = None
        self.used = 0
        self.used_before = 0  # without the tokens that are being read
        self.filled = 0  # columns that hold numbers; memory beyond them has not been touched

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = (
            states.new_empty(self.rows, states.shape[1], self.capacity, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns of each row of the window and return all of its columns in use.

        transformers' interface has the further arguments, for layers of other kinds.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.places is not None and self.keys is not None and self.values is not None
        if self.used > self.filled:
            # a shorter row's columns beyond its end are masked, but 0 * NaN would still spoil a sum
            ahead = min(self.capacity, -(-self.used // AHEAD) * AHEAD)
            self.keys[:, :, self.filled : ahead] = 0
            self.values[:, :, self.filled : ahead] = 0
            self.filled = ahead
        keys, values = self.keys[self.window], self.values[self.window]
        for old, new in ((keys, key_states), (values, value_states)):
            old.view(-1, old.shape[3]).index_copy_(0, self.places.of(old), new.reshape(-1, old.shape[3]))
        return keys[:, :, : self.used], values[:, :, : self.used]

    def fork(self, rows: torch.Tensor, used: int, capacity: int, into: "SlotLayer | None" = None) -> "SlotLayer":
        """A layer with these rows' first `used` columns; in the memory of the first rows of `into`, if given."""
        layer = SlotLayer(len(rows), capacity)
        if self.keys is not None and self.values is not None:
            used = min(used, self.filled)
            layer.filled = used if into is None else capacity
            layer.keys = _copied(self.keys, rows, used, capacity, None if into is None else into.keys)
            layer.values = _copied(self.values, rows, used, capacity, None if into is None else into.values)
            layer.is_initialized = True
        return layer

    def grown(self, rows: int, capacity: int) -> "SlotLayer":
        """This layer with room for at least as many rows and columns as it has now; new rows hold zeros."""
        layer = SlotLayer(rows, capacity)
        if self.keys is not None and self.values is not None:
            layer.filled = self.filled
            layer.keys, layer.values = (
                states.new_empty(rows, states.shape[1], capacity, states.shape[3])
                for states in (self.keys, self.values)
            )
            for new, old in ((layer.keys, self.keys), (layer.values, self.values)):
                new[: self.rows, :, : self.filled] = old[: self.rows, :, : self.filled]
                new[self.rows :, :, : self.filled] = 0
            layer.is_initialized = True
        return layer

    def put(self, source: "SlotLayer", rows: torch.Tensor, places: torch.Tensor, used: int) -> None:
        """Copy the first `used` columns of rows of `source`, which may be this layer, to the rows `places`."""
        if source.keys is None or source.values is None:
            return
        if self.keys is None or self.values is None:
            self.lazy_initialization(source.keys, source.values)
        assert self.keys is not None and self.values is not None
        used = min(used, source.filled)
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            if used > self.filled:
                mine[:, :, self.filled : used] = 0
            at, of = places.to(mine.device), rows.to(theirs.device)
            mine[:, :, :used].index_copy_(0, at, theirs[:, :, :used].index_select(0, of))
            mine[:, :, used : self.filled].index_fill_(0, at, 0)  # the row's last owner may have left NaN there
        self.filled = max(self.filled, used)

    def zeros(self, rows: int, capacity: int) -> "SlotLayer":
        """A layer of zeros with this one's heads and dimension; not allocated if this one is not."""
        layer = SlotLayer(rows, capacity)
        if self.keys is not None and self.values is not None:
            layer.keys, layer.values = (
                states.new_zeros(rows, states.shape[1], capacity, states.shape[3])
                for states in (self.keys, self.values)
            )
            layer.filled = capacity
            layer.is_initialized = True
        return layer

    def adopt(self, other: "SlotLayer") -> None:
        """Use the tensors of another layer from now on."""
        self.keys, self.values = other.keys, other.values
        self.capacity, self.filled, self.is_initialized = other.capacity, other.filled, other.is_initialized

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used, 0

    def get_seq_length(self) -> int:
        return self.used_before

    def get_max_length(self) -> int:
        return -1


def _copied(
    states: torch.Tensor, rows: torch.Tensor, used: int, capacity: int, into: torch.Tensor | None
) -> torch.Tensor:
    """The first `used` columns of these rows, in new memory or in the first rows of `into`, zero beyond `used`."""
    shape = len(rows), states.shape[1], capacity, states.shape[3]
    copy = states.new_empty(shape) if into is None else into[: len(rows)]
    copy[:, :, :used] = states[:, :, :used].index_select(0, rows.to(states.device))
    if into is not None:
        copy[:, :, used:] = 0
    return copy


class BufferPool(Protocol):
    """Buffers that are allocated already, into which a cache may be forked."""

    def fork(self, source: "SlotCache", rows: torch.Tensor, used: int, capacity: int) -> "SlotCache | None":
        """`SlotCache.fork` into such buffers, perhaps with more capacity; None where none are free."""


class SlotCache(Cache):
    """The layers of one state. `prepare` says where the next read writes; `attention` makes masks of it."""

    def __init__(self, layers: Sequence[SlotLayer], capacity: int) -> None:
        super().__init__(layers=list(layers))
        self.slots = list(layers)
        self.capacity = capacity
        self.pool: BufferPool | None = None
        self.starts = torch.zeros(0, 1, 1, 1, dtype=torch.long)

    @classmethod
    def empty(cls, layers: int, rows: int, capacity: int) -> "SlotCache":
        return cls([SlotLayer(rows, capacity) for _ in range(layers)], capacity)

    @property
    def rows(self) -> int:
        return self.slots[0].rows

    @property
    def device(self) -> torch.device | None:
        """The device of the first keys; None before anything has been read."""
        # the lower layers of models that share them never hold anything, and layers may lie on several devices
        return next((layer.keys.device for layer in self.slots if layer.keys is not None), None)

    def prepare(self, window: slice, starts: torch.Tensor, count: int, used: int) -> torch.Tensor:
        """Prepare to read `count` tokens into each row of the window, into its r-th from column starts[r] on.

        `used` is the number of columns that are attended to, at least as many as the longest row will have.

        Returns positions [window, count], which are the columns.
        """
        columns = starts[:, None] + torch.arange(count, device=starts.device)
        assert used <= self.capacity, f"{used} columns in a cache of {self.capacity}"
        self.starts, places = starts[:, None, None, None], Places(columns)
        for layer in self.slots:
            layer.window, layer.places, layer.used, layer.used_before = window, places, used, used - count
        return columns

    def get_query_offset(self, layer_idx: int = 0) -> torch.Tensor:
        """The first column that is being read in each row, [window, 1, 1, 1]."""
        return self.starts

    def select(self, rows: torch.Tensor, used: int, capacity: int) -> "SlotCache":
        """These rows, in this order, with room for `capacity` columns; their first `used` columns are kept."""
        fork = None if self.pool is None else self.pool.fork(self, rows, used, capacity)
        if fork is None:
            fork = self.fork(rows, used, capacity)
            fork.pool = self.pool
        return fork

    @torch.inference_mode()
    def fork(self, rows: torch.Tensor, used: int, capacity: int, into: "SlotCache | None" = None) -> "SlotCache":
        """`select` in new memory, or in the first rows of `into`, whose capacity must be `capacity`."""
        targets = [None] * len(self.slots) if into is None else into.slots
        layers = [layer.fork(rows, used, capacity, target) for layer, target in zip(self.slots, targets, strict=True)]
        return SlotCache(layers, capacity)

    @torch.inference_mode()
    def grown(self, rows: int, capacity: int) -> "SlotCache":
        """This cache with room for at least as many rows and columns as it has now."""
        cache = SlotCache([layer.grown(rows, capacity) for layer in self.slots], capacity)
        cache.pool = self.pool
        return cache

    @torch.inference_mode()
    def put(self, source: "SlotCache", rows: torch.Tensor, places: torch.Tensor, used: int) -> None:
        """Copy the first `used` columns of rows of `source`, which may be this cache, to the rows `places` of this."""
        for layer, other in zip(self.slots, source.slots, strict=True):
            layer.put(other, rows, places, used)

    def zeros(self, rows: int, capacity: int) -> "SlotCache":
        """A cache of zeros whose layers have this one's heads and dimensions."""
        return SlotCache([layer.zeros(rows, capacity) for layer in self.slots], capacity)

    def bytes_of(self, rows: int, capacity: int) -> int:
        """The memory of `zeros(rows, capacity)`."""
        tensors = [states for layer in self.slots for states in (layer.keys, layer.values) if states is not None]
        return sum(rows * capacity * states.shape[1] * states.shape[3] * states.element_size() for states in tensors)

    def adopt(self, other: "SlotCache") -> None:
        """Use the tensors of another cache of the same rows from now on."""
        self.capacity = other.capacity
        for layer, other_layer in zip(self.slots, other.slots, strict=True):
            layer.adopt(other_layer)
