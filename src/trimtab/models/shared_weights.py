"""A model of its own modules and configuration over the weights of another: what one of the two is made to do, the
other does not.

    >>> weight = torch.nn.Linear(2, 2)
    >>> view = view_of(weight)
    >>> with Unwritten(weight) as guard, torch.no_grad():
    ...     _ = view.weight.zero_()
    ...     guard.keep_in(view)
    >>> bool(view.weight.any()), bool(weight.weight.any()), view.bias.data_ptr() == weight.bias.data_ptr()
    (False, True, True)
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=torch.nn.Module)


def view_of(model: Module) -> Module:
    """A copy of a module and of all below it that holds no numbers of its own: its tensors lie in the same memory.

    The copy can be adapted, put into evaluation mode, or given another attention, and the model stays as it was.
    """
    aliases = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False)
        for weight in model.parameters()
        if type(weight) is torch.nn.Parameter  # others, as of 4 bits, copy themselves, with what belongs to them
    }
    with _SharedMemory():
        return copy.deepcopy(model, aliases)


def hooked(module: torch.nn.Module) -> bool:
    """Whether someone has a module do more than its class does; accelerate's hooks only move what it reads."""
    moved = "_hf_hook" in vars(module)
    return bool(module._forward_hooks or module._forward_pre_hooks or ("forward" in vars(module) and not moved))


class _SharedMemory(TorchFunctionMode):
    """Inside, a deep copy of a tensor lies in the same memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach())
        return func(*args, **(kwargs or {}))


class Unwritten(TorchDispatchMode):
    """Inside, writes into the memory of some modules' tensors are noticed; afterwards it holds what it held before.

    What is written is known from the schema of each operation of PyTorch, so by whatever code it is called.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        super().__init__()
        self._held = {_memory(tensor) for module in modules for tensor in _tensors(module)}
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def changed_in(self, view: torch.nn.Module) -> bool:
        """Whether anything has been written into, or a view of the modules has other tensors in place of theirs."""
        return bool(self._before or self._held - {_memory(tensor) for tensor in _tensors(view)})

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies in the memory of the modules."""
        return _memory(tensor) in self._held

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[place] if place < len(args) else named.get(argument.name)
                for tensor in tree_leaves(given):
                    if isinstance(tensor, torch.Tensor):
                        self._remember(tensor)
        return func(*args, **named)

    def _remember(self, tensor: torch.Tensor) -> None:
        key, memory = _memory(tensor), tensor.untyped_storage()
        if key in self._held and key not in self._before:
            self._before[key] = memory, memory.clone()

    def keep_in(self, view: torch.nn.Module) -> None:
        """Give a view of the modules memory of its own for what has been written into."""
        for tensor in _tensors(view):
            if _memory(tensor) in self._before:
                tensor.data = tensor.data.clone()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for memory, before in self._before.values():
            memory.copy_(before)

    def __enter__(self) -> Self:
        super().__enter__()
        return self


def _memory(tensor: torch.Tensor) -> int:
    """What tells apart the memory that tensors lie in, also where it has no address, as on `meta`."""
    return int(tensor.untyped_storage()._cdata)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
