"""Views of a model: modules and configuration of their own over the same weights, so that changes to one leave the
other as it is.

    >>> layer = torch.nn.Linear(2, 2)
    >>> view = view_of(layer)
    >>> with WriteGuard(layer) as guard, torch.no_grad():
    ...     _ = view.weight.zero_()
    ...     guard.keep_in(view)
    >>> bool(view.weight.any()), bool(layer.weight.any()), view.bias.data_ptr() == layer.bias.data_ptr()
    (False, True, True)
"""

import copy
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Named: TypeAlias = Mapping[str, Any]
Module = TypeVar("Module", bound=torch.nn.Module)


def view_of(model: Module) -> Module:
    """A copy of a module and all its submodules whose tensors share the memory of the original's.

    The copy can be adapted, put into evaluation mode, or given another attention, and the model stays as it was.
    """
    aliases = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False)
        for weight in model.parameters()
        if type(weight) is torch.nn.Parameter  # others, such as 4-bit ones, copy themselves with all that they need
    }
    with _CopiesShareMemory():
        return copy.deepcopy(model, aliases)


def hooked(module: torch.nn.Module) -> bool:
    """Whether a module has hooks that may change what it computes; accelerate's only move its inputs."""
    moved = "_hf_hook" in vars(module)
    return bool(module._forward_hooks or module._forward_pre_hooks or ("forward" in vars(module) and not moved))


class _CopiesShareMemory(TorchFunctionMode):
    """Inside, a deep copy of a tensor lies in the same memory."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Named | None = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach())
        return func(*args, **(kwargs or {}))


class WriteGuard(TorchDispatchMode):
    """Inside, notices all writes into the memory of a module's tensors; at the end it undoes them.

    The schema of each operation of PyTorch tells what it writes.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._guarded = _memories(module)
        self._originals: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def changed_in(self, view: torch.nn.Module) -> bool:
        """Whether anything has been written, or a view of the module has other tensors in place of the module's."""
        return bool(self._originals or self._guarded - _memories(view))

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies in the memory of the module."""
        return _memory(tensor) in self._guarded

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Named | None = None) -> Any:
        named = kwargs or {}
        for index, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[index] if index < len(args) else named.get(argument.name)
                for tensor in tree_leaves(value):
                    if isinstance(tensor, torch.Tensor):
                        self._save(tensor)
        return func(*args, **named)

    def _save(self, tensor: torch.Tensor) -> None:
        memory = tensor.untyped_storage()
        if self.holds(tensor) and _memory(tensor) not in self._originals:
            self._originals[_memory(tensor)] = memory, memory.clone()

    def keep_in(self, view: torch.nn.Module) -> None:
        """Give a view of the module its own copy of the memory that has been written into."""
        for tensor in _tensors(view):
            if _memory(tensor) in self._originals:
                tensor.data = tensor.data.clone()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for memory, original in self._originals.values():
            memory.copy_(original)


def _memory(tensor: torch.Tensor) -> int:
    """An id of the memory that a tensor lies in, also where that has no address, as on `meta`."""
    return int(tensor.untyped_storage()._cdata)


def _tensors(module: torch.nn.Module) -> Iterable[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _memories(module: torch.nn.Module) -> set[int]:
    return {_memory(tensor) for tensor in _tensors(module)}
