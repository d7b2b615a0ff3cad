"""One token a row through buffers that keep their place, so that a step's launches are recorded once and replayed.

At few rows an accelerator waits for the host, which launches the kernels of each layer one by one. A CUDA graph
launches them all at once, but repeats them over the same addresses and shapes. So rows and columns are rounded up to a
few sizes; each size has its own buffers for ids, positions, keys and values, and a recorded step over them. A state
that decodes lives in such buffers until it is dropped, forks are copied right into free ones, and a state that is in
another's way is moved out. Recording is a function that is passed in, so all the rest runs on any device.

    >>> steps = StaticSteps(forward, CudaGraphs(device), 20 << 30)                     # doctest: +SKIP
    >>> hidden = steps.read(state.cache, tokens=[17, 4], starts=[5, 9])                 # doctest: +SKIP
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from trimtab.models.kv_cache import SlotCache

Forward = Callable[[torch.Tensor, SlotCache, slice, torch.Tensor, int], torch.Tensor]
"""Of ids [rows, new], a cache, a window of its rows, their first new columns [rows] and the columns in use: the hidden
states [rows, new, width]."""
Step = Callable[[], torch.Tensor]
Record = Callable[[Step], Step]
"""Of a step that reads and writes the same tensors each time, a step that does the same, faster."""

COLUMNS = 32  # the fewest of a buffer
STEPS = 16  # recorded ones at most
WARM_UPS = 2  # runs before a recording, in which libraries pick their kernels and take their workspaces
MEMORY_FRACTION = (
    0.25  # of the memory that an accelerator has left beside the weights: for keys and values of recorded steps
)
_log = logging.getLogger(__name__)


def bucket(count: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is no less than `count`.

    >>> [bucket(count) for count in (1, 3, 5, 17, 200)]
    [1, 3, 6, 24, 256]
    """
    power = 1 << max(0, count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


class CudaGraphs:
    """Records steps as CUDA graphs. They share the memory of what they compute in between, and so run one at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=self._pool):
                hidden = step()

        def replay() -> torch.Tensor:
            graph.replay()
            return hidden

        return replay


class StaticStep:
    """Buffers of `rows` rows and `columns` columns, the recorded step over them, and the cache that lives in them."""

    def __init__(self, forward: Forward, record: Record, like: SlotCache, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._buffers = like.blank(rows, columns)
        device = like.device
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._starts = torch.zeros(rows, dtype=torch.long, device=device)
        # recorded over empty buffers: what a recording writes is no row's
        self._run = record(lambda: forward(self._ids, self._buffers, slice(0, rows), self._starts, columns))
        self._tenant: Callable[[], SlotCache | None] = lambda: None

    @property
    def vacant(self) -> bool:
        return self._tenant() is None

    def houses(self, cache: SlotCache) -> bool:
        return self._tenant() is cache

    def take(self, source: SlotCache, rows: torch.Tensor, used: int) -> SlotCache:
        """A fork of these rows of `source` that lives here; another cache that does is moved out."""
        tenant = self._tenant()
        if tenant is not None:
            everything = torch.arange(tenant.rows, device=rows.device)
            tenant.adopt(tenant.fork(everything, tenant.capacity, tenant.capacity))
        fork = source.fork(rows, used, self.columns, into=self._buffers)
        self._tenant = weakref.ref(fork)
        return fork

    def admit(self, cache: SlotCache, used: int) -> None:
        """Move a cache in."""
        fork = self.take(cache, torch.arange(cache.rows, device=self._starts.device), used)
        cache.adopt(fork)
        self._tenant = weakref.ref(cache)

    def read(self, tokens: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
        """Hidden states [rows, 1, width] of one token a row of the cache that lives here, at column starts[r]."""
        self._ids[: len(tokens), 0].copy_(torch.tensor(tokens), non_blocking=True)
        self._starts[: len(starts)].copy_(torch.tensor(starts), non_blocking=True)
        return self._run()[: len(tokens)].clone()  # the next run of any recorded step overwrites it


class StaticSteps:
    """The recorded steps of one model, made when they are first asked for.

    Args:
        forward: the model's body over a cache.
        record: makes a step fast.
        budget: bytes that all buffers may take together; the ones that have not been used for longest are given up, and
            a batch that is too large even alone is read without: it keeps an accelerator busy as it is.
    """

    def __init__(self, forward: Forward, record: Record, budget: int) -> None:
        self._forward, self._record, self._budget = forward, record, budget
        self._steps: OrderedDict[tuple[int, int], StaticStep] = OrderedDict()
        self._bytes: dict[tuple[int, int], int] = {}

    def read(self, cache: SlotCache, tokens: Sequence[int], starts: Sequence[int]) -> torch.Tensor | None:
        """Hidden states [rows, 1, width] of one token a row, which the cache holds afterwards at column starts[r].

        None where no step is recorded for it: it holds nothing yet, is too large, or its model cannot be recorded.
        """
        if not cache.begun:
            return None
        size = bucket(cache.rows), _columns(max(cache.capacity, max(starts) + 1))
        step = self._steps.get(size) or self._made(cache, *size)
        if step is None:
            return None
        self._steps.move_to_end(size)
        if not step.houses(cache):
            step.admit(cache, max(starts))
        cache.home = self
        return step.read(tokens, starts)

    def fork(self, source: SlotCache, rows: torch.Tensor, used: int, capacity: int) -> SlotCache | None:
        """A fork in buffers that wait for one of its size; None where none do."""
        step = self._steps.get((bucket(len(rows)), _columns(capacity)))
        if step is None or not step.vacant or not len(rows):
            return None
        fork = step.take(source, rows, used)
        fork.home = self
        return fork

    def _made(self, like: SlotCache, rows: int, columns: int) -> StaticStep | None:
        needed = like.bytes_of(rows, columns)
        if needed > self._budget:
            return None
        while self._steps and (len(self._steps) >= STEPS or sum(self._bytes.values()) + needed > self._budget):
            dropped, _ = self._steps.popitem(last=False)
            del self._bytes[dropped]
        try:
            step = StaticStep(self._forward, self._record, like, rows, columns)
        except RuntimeError as error:  # as torch raises where a model does what cannot be recorded
            _log.warning("steps are not recorded, and decode slower: %s", str(error).splitlines()[0])
            self._budget = 0
            return None
        self._steps[rows, columns], self._bytes[rows, columns] = step, needed
        return step


def _columns(count: int) -> int:
    return COLUMNS * bucket(-(-count // COLUMNS))
