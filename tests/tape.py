"""What a CUDA graph does, on any device: a step's operations are recorded once and repeated on the same tensors.

Whatever Python computes while it records stands still from then on, just as in a graph, such as a length. And what a
graph cannot hold fails here, too: a number that the host asks for, or one that it sends.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.lift_fresh.default,
    aten.unique_dim.default,
    aten._unique2.default,
}


class Unrecordable(RuntimeError):
    """An operation for which an accelerator waits for its host."""


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in WAITING:
            raise Unrecordable(str(func))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, (bool, int, float)):
            raise Unrecordable(str(func))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def record(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The step's operations, to be run again by each call."""
    tape = _Tape()
    with tape:
        recorded = step()

    def replay() -> torch.Tensor:
        now: dict[int, torch.Tensor] = {}

        def current(value: torch.Tensor) -> torch.Tensor:
            return now.get(id(value), value)

        for func, args, kwargs, before in tape.calls:
            after = func(*tree_map_only(torch.Tensor, current, args), **tree_map_only(torch.Tensor, current, kwargs))
            olds = before if isinstance(before, (tuple, list)) else (before,)
            news = after if isinstance(after, (tuple, list)) else (after,)
            now |= {id(old): new for old, new in zip(olds, news, strict=True) if isinstance(old, torch.Tensor)}
        return current(recorded)

    return replay
