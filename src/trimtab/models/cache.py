"""A key-value cache whose rows have lengths of their own.

Every row begins at column 0 and is written at its own end, so rows of unlike lengths need no left padding, a row is cut
back by lowering its length, and what stands beyond a row's length is never attended to. Knows nothing of tokens.

    >>> cache = SlotCache.empty(layers=30, rows=4, capacity=64)                         # doctest: +SKIP
    >>> positions, mask = cache.place(slice(0, 4), torch.tensor([3, 5, 2, 2]), count=1)  # doctest: +SKIP
    >>> model(input_ids=tokens, position_ids=positions, past_key_values=cache)          # doctest: +SKIP
"""

from collections.abc import Sequence

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
        keys, values = self.keys[self.window], self.values[self.window]
        keys[rows, heads, self.columns[:, None, :]] = key_states
        values[rows, heads, self.columns[:, None, :]] = value_states
        return keys[:, :, : self.used], values[:, :, : self.used]

    def selected(self, rows: torch.Tensor, used: int, capacity: int) -> "SlotLayer":
        """A layer that holds these rows' first `used` columns."""
        layer = SlotLayer(len(rows), capacity)
        if self.keys is None or self.values is None:
            return layer
        used = min(used, self.filled)
        layer.keys, layer.values = _fork(self.keys, rows, used, capacity), _fork(self.values, rows, used, capacity)
        layer.filled = used
        layer.is_initialized = True
        return layer

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


def _fork(tensor: torch.Tensor, rows: torch.Tensor, used: int, capacity: int) -> torch.Tensor:
    fork = tensor.new_empty(len(rows), tensor.shape[1], capacity, tensor.shape[3])
    fork[:, :, :used] = tensor[:, :, :used].index_select(0, rows)
    return fork


class SlotCache(Cache):
    """The layers of one state. `place` says where the next read writes and what it may attend to."""

    def __init__(self, layers: Sequence[SlotLayer], capacity: int) -> None:
        super().__init__(layers=list(layers))
        self.slots = list(layers)
        self.capacity = capacity

    @classmethod
    def empty(cls, layers: int, rows: int, capacity: int) -> "SlotCache":
        return cls([SlotLayer(rows, capacity) for _ in range(layers)], capacity)

    def place(self, window: slice, starts: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare to read `count` tokens into each row of the window, into its r-th from column starts[r] on.

        Returns positions [window, count] and the mask [window, 1, count, used], True where a token may attend.
        """
        columns = starts[:, None] + torch.arange(count, device=starts.device)
        used = int(columns.max()) + 1
        assert used <= self.capacity, f"{used} columns in a cache of {self.capacity}"
        for layer in self.slots:
            layer.window, layer.columns, layer.used = window, columns, used
        mask = torch.arange(used, device=starts.device)[None, None, None, :] <= columns[:, None, :, None]
        return columns, mask

    def select(self, rows: torch.Tensor, used: int, capacity: int) -> "SlotCache":
        """These rows, in this order, with room for `capacity` columns; their first `used` columns are kept."""
        return SlotCache([layer.selected(rows, used, capacity) for layer in self.slots], capacity)
