"""One token per row through buffers at fixed addresses, so that a step's kernel launches are recorded and replayed.

At few rows an accelerator waits for the host, which launches the kernels of each layer one by one. A CUDA graph
launches them all at once, but repeats them over the same addresses and shapes. So rows and columns are rounded up to a
few sizes; each size has its own buffers for ids, positions, keys and values, and a recorded step over them. A state
that decodes stays in such buffers until it is dropped, forks are copied right into free ones, and a state is moved out
when another one needs its buffers. Recording is a function that is passed in, so all the rest runs on any device.
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from trimtab.models.kv_cache import SlotCache

Forward = Callable[[torch.Tensor, SlotCache, slice, torch.Tensor, int], torch.Tensor]
"""Hidden states [rows, new, width] of ids [rows, new], given a cache, a window of its rows, their first new columns
[rows] and the number of columns in use."""
Step = Callable[[], torch.Tensor]
Record = Callable[[Step], Step]
"""Turns a step that reads and writes the same tensors each time into one that does the same, faster."""

MIN_COLUMNS = 32  # the smallest number of columns of a buffer
MAX_STEPS = 16  # recorded steps that are kept at the same time
WARM_UPS = 2  # runs before a recording, in which libraries choose kernels and allocate workspaces
MEMORY_FRACTION = 0.25  # of an accelerator's memory that is free after loading the weights; the buffers may fill it
_log = logging.getLogger(__name__)


def bucket(count: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is no less than `count`.

    >>> [bucket(count) for count in (1, 3, 5, 17, 200)]
    [1, 3, 6, 24, 256]
    """
    power = 1 << max(0, count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


class CudaGraphs:
    """Records steps as CUDA graphs. They share the memory of their intermediate results, and so run one at a time."""

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
            # other threads may use the device meanwhile, such as the one in which a server scores answers
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                hidden = step()

        def replay() -> torch.Tensor:
            graph.replay()
            return hidden

        return replay


class StaticStep:
    """Buffers of `rows` rows and `columns` columns, the recorded step over them, and the cache that occupies them."""

    def __init__(self, forward: Forward, record: Record, like: SlotCache, rows: int, columns: int) -> None:
        self.columns = columns
        self.bytes = like.bytes_of(rows, columns)
        self._buffers = like.zeros(rows, columns)
        device = like.device
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._starts = torch.zeros(rows, dtype=torch.long, device=device)
        # recorded while no cache is in the buffers, since a recording writes into them
        self._run = record(lambda: forward(self._ids, self._buffers, slice(0, rows), self._starts, columns))
        self.occupant: Callable[[], SlotCache | None] = lambda: None  # a weak reference

    def fork(self, source: SlotCache, rows: torch.Tensor, used: int) -> SlotCache:
        """A fork of these rows of `source` in the buffers; the cache that occupies them now is moved out."""
        occupant = self.occupant()
        if occupant is not None:
            all_rows = torch.arange(occupant.rows, device=rows.device)
            occupant.adopt(occupant.fork(all_rows, occupant.capacity, occupant.capacity))
        fork = source.fork(rows, used, self.columns, into=self._buffers)
        self.occupant = weakref.ref(fork)
        return fork

    def move_in(self, cache: SlotCache, used: int) -> None:
        cache.adopt(self.fork(cache, torch.arange(cache.rows, device=self._starts.device), used))
        self.occupant = weakref.ref(cache)

    def read(self, tokens: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
        """Hidden states [rows, 1, width] of one token per row of the occupant, at column starts[r]."""
        self._ids[: len(tokens), 0].copy_(torch.tensor(tokens), non_blocking=True)
        self._starts[: len(starts)].copy_(torch.tensor(starts), non_blocking=True)
        return self._run()[: len(tokens)].clone()  # the next run of any recorded step overwrites it


class StaticSteps:
    """The recorded steps of one model, each made when it is first needed.

    Args:
        forward: the model's body over a cache.
        record: makes a step fast.
        budget: bytes that all buffers may take together. The least recently used ones are given up. A batch that is too
            large even alone is read without a recorded step: it keeps an accelerator busy anyway.
    """

    def __init__(self, forward: Forward, record: Record, budget: int) -> None:
        self._forward, self._record, self._budget = forward, record, budget
        self._steps: OrderedDict[tuple[int, int], StaticStep] = OrderedDict()  # the least recently used one first

    def read(self, cache: SlotCache, tokens: Sequence[int], starts: Sequence[int]) -> torch.Tensor | None:
        """Hidden states [rows, 1, width] of one token per row, which the cache then holds at column starts[r].

        None where no step can be recorded: the cache is empty or too large, or the model cannot be recorded.
        """
        if cache.device is None:
            return None
        size = bucket(cache.rows), _columns(max(cache.capacity, max(starts) + 1))
        step = self._steps.get(size) or self._recorded(cache, *size)
        if step is None:
            return None
        self._steps.move_to_end(size)
        if step.occupant() is not cache:
            step.move_in(cache, max(starts))
        cache.pool = self
        return step.read(tokens, starts)

    def fork(self, source: SlotCache, rows: torch.Tensor, used: int, capacity: int) -> SlotCache | None:
        """A fork in free buffers of its size; None where there are none."""
        step = self._steps.get((bucket(len(rows)), _columns(capacity)))
        if step is None or step.occupant() is not None or not len(rows):
            return None
        fork = step.fork(source, rows, used)
        fork.pool = self
        return fork

    def _recorded(self, like: SlotCache, rows: int, columns: int) -> StaticStep | None:
        needed = like.bytes_of(rows, columns)
        if needed > self._budget:
            return None
        while self._steps and (len(self._steps) >= MAX_STEPS or self._bytes + needed > self._budget):
            self._steps.popitem(last=False)
        try:
            step = StaticStep(self._forward, self._record, like, rows, columns)
        except RuntimeError as error:  # which torch raises where a model does what cannot be recorded
            _log.warning("steps are not recorded, and decode slower: %s", str(error).splitlines()[0])
            self._budget = 0
            return None
        self._steps[rows, columns] = step
        return step

    @property
    def _bytes(self) -> int:
        return sum(step.bytes for step in self._steps.values())


def _columns(count: int) -> int:
    return MIN_COLUMNS * bucket(-(-count // MIN_COLUMNS))
