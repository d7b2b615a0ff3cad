"""A key-value cache whose rows have lengths of their own.

Every row begins at column 0 and is written at its own end, so rows of unlike lengths need no left padding, a row is cut
back by lowering its length, and what stands beyond a row's length is never attended to. Knows nothing of tokens.

    >>> cache = SlotCache.empty(layers=30, rows=4, capacity=64)                         # doctest: +SKIP
    >>> positions = cache.place(slice(0, 4), torch.tensor([3, 5, 2, 2]), count=1, used=6)  # doctest: +SKIP
    >>> model(input_ids=tokens, position_ids=positions, past_key_values=cache)          # doctest: +SKIP
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, capacity, head dimension], allocated at the first write."""

    is_sliding = False

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows = rows
        self.capacity = capacity
        self.window = slice(0, rows)
        self.columns: torch.Tensor | None = None
        self.used = 0
        self.before = 0  # of `used`, the columns there were before the tokens that are being read
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
        """Write the new columns of each row of the window and return all of its columns in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.columns is not None and self.keys is not None and self.values is not None
        if self.used > self.filled:
            # a shorter row's columns beyond its end are masked, but 0 * NaN would still spoil a sum
            self.keys[:, :, self.filled : self.used] = 0
            self.values[:, :, self.filled : self.used] = 0
            self.filled = self.used
        rows = torch.arange(key_states.shape[0], device=key_states.device)[:, None, None]
        heads = torch.arange(key_states.shape[1], device=key_states.device)[None, :, None]
        columns = self.columns.to(key_states.device)[:, None, :]  # a layer may lie on a device of its own
        keys, values = self.keys[self.window], self.values[self.window]
        keys[rows, heads, columns] = key_states
        values[rows, heads, columns] = value_states
        return keys[:, :, : self.used], values[:, :, : self.used]

    def selected(self, rows: torch.Tensor, used: int, capacity: int, into: "SlotLayer | None" = None) -> "SlotLayer":
        """A layer that holds these rows' first `used` columns; in the first rows of `into` where it is given."""
        layer = SlotLayer(len(rows), capacity)
        if self.keys is None or self.values is None:
            return layer
        used = min(used, self.filled)
        layer.filled = used
        if into is None:
            layer.keys, layer.values = _fork(self.keys, rows, used, capacity), _fork(self.values, rows, used, capacity)
        else:
            assert into.keys is not None and into.values is not None
            layer.keys, layer.values = into.keys[: len(rows)], into.values[: len(rows)]
            for kept, own in ((layer.keys, self.keys), (layer.values, self.values)):
                kept[:, :, :used] = own[:, :, :used].index_select(0, rows)
                kept[:, :, used:] = 0
            layer.filled = capacity
        layer.is_initialized = True
        return layer

    def blank(self, rows: int, capacity: int) -> "SlotLayer":
        """A layer of zeros whose heads and dimensions are this one's; like this one, it may hold nothing at all."""
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
        """Hold what the other holds, where it does."""
        self.keys, self.values = other.keys, other.values
        self.capacity, self.filled, self.is_initialized = other.capacity, other.filled, other.is_initialized

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used, 0

    def get_seq_length(self) -> int:
        return self.before

    def get_max_length(self) -> int:
        return -1


def _fork(tensor: torch.Tensor, rows: torch.Tensor, used: int, capacity: int) -> torch.Tensor:
    fork = tensor.new_empty(len(rows), tensor.shape[1], capacity, tensor.shape[3])
    fork[:, :, :used] = tensor[:, :, :used].index_select(0, rows.to(tensor.device))
    return fork


class Home(Protocol):
    """Where forks of a cache may find room that is there already."""

    def fork(self, source: "SlotCache", rows: torch.Tensor, used: int, capacity: int) -> "SlotCache | None":
        """`SlotCache.fork` in such room, whose capacity may be more; None where there is none."""
        ...


class SlotCache(Cache):
    """The layers of one state. `place` says where the next read writes; `attention` makes masks of it."""

    def __init__(self, layers: Sequence[SlotLayer], capacity: int) -> None:
        super().__init__(layers=list(layers))
        self.slots = list(layers)
        self.capacity = capacity
        self.home: Home | None = None
        self.starts = torch.zeros(0, 1, 1, 1, dtype=torch.long)

    @classmethod
    def empty(cls, layers: int, rows: int, capacity: int) -> "SlotCache":
        return cls([SlotLayer(rows, capacity) for _ in range(layers)], capacity)

    @property
    def rows(self) -> int:
        return self.slots[0].rows

    @property
    def begun(self) -> bool:
        """Whether anything has been read."""
        return any(layer.is_initialized for layer in self.slots)

    @property
    def device(self) -> torch.device | None:
        """Where the keys and values lie, the first of them; None before anything has been read."""
        # the lower layers of a shared trunk never hold anything, and each may lie on a device of its own
        return next((layer.keys.device for layer in self.slots if layer.keys is not None), None)

    def place(self, window: slice, starts: torch.Tensor, count: int, used: int) -> torch.Tensor:
        """Prepare to read `count` tokens into each row of the window, into its r-th from column starts[r] on.

        `used` is the number of columns that are attended to, no fewer than the longest row will have.

        Returns positions [window, count], which are the columns.
        """
        columns = starts[:, None] + torch.arange(count, device=starts.device)
        assert used <= self.capacity, f"{used} columns in a cache of {self.capacity}"
        self.starts = starts[:, None, None, None]
        for layer in self.slots:
            layer.window, layer.columns, layer.used, layer.before = window, columns, used, used - count
        return columns

    def get_query_offset(self, layer_idx: int = 0) -> torch.Tensor:
        """Where the tokens that are being read begin, a column for each row, [window, 1, 1, 1]."""
        return self.starts

    def select(self, rows: torch.Tensor, used: int, capacity: int) -> "SlotCache":
        """These rows, in this order, with room for `capacity` columns; their first `used` columns are kept."""
        fork = None if self.home is None else self.home.fork(self, rows, used, capacity)
        if fork is None:
            fork = self.fork(rows, used, capacity)
            fork.home = self.home
        return fork

    @torch.inference_mode()
    def fork(self, rows: torch.Tensor, used: int, capacity: int, into: "SlotCache | None" = None) -> "SlotCache":
        """`select`, in memory of its own or in the first rows of `into`, whose capacity it is then."""
        places = [None] * len(self.slots) if into is None else into.slots
        layers = [layer.selected(rows, used, capacity, place) for layer, place in zip(self.slots, places, strict=True)]
        return SlotCache(layers, capacity)

    def blank(self, rows: int, capacity: int) -> "SlotCache":
        """A cache of so many rows and columns of zeros, whose layers have the shapes of this one's."""
        return SlotCache([layer.blank(rows, capacity) for layer in self.slots], capacity)

    def bytes_of(self, rows: int, capacity: int) -> int:
        """What `blank` takes."""
        tensors = [states for layer in self.slots for states in (layer.keys, layer.values) if states is not None]
        return sum(rows * capacity * each.shape[1] * each.shape[3] * each.element_size() for each in tensors)

    def adopt(self, other: "SlotCache") -> None:
        """Hold what the other holds, where it does; it has the same rows."""
        self.capacity = other.capacity
        for layer, theirs in zip(self.slots, other.slots, strict=True):
            layer.adopt(theirs)
