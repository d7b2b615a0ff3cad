"""A CUDA device where there is none: its tensors lie in the processor's memory and carry a tag that says `cuda:0`.

Inside `accelerators()` whatever asks for CUDA gets such tensors. Numbers are right, since the processor computes them;
and an operation whose tensors lie on different devices raises, as CUDA would. So a forgotten `.to(device)` fails on a
machine without a GPU. The tag belongs to the storage: views share it, and `parameter.data = moved` takes it along.

    with accelerators():
        torch.zeros(2, device="cuda") + torch.zeros(2)  # RuntimeError: aten.add.Tensor: tensors on cpu and cuda:0
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tape

aten = torch.ops.aten
CPU = torch.device("cpu")
MEMORY = 8 << 30
ANY_DEVICES = {aten.copy_, aten._to_copy, aten.set_, aten._has_compatible_shallow_copy_type}
"""What takes tensors of unlike devices."""
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
"""What takes indices on the processor beside values on a device, never the other way round."""
NUMBERS = {aten.masked_fill, aten.masked_fill_, aten.fill_, aten.where}
"""What takes a tensor without dimensions on the processor for a number, as pointwise operations do."""
T = torch.Tensor


def place(tensor: torch.Tensor) -> torch.device:
    """The device that a tensor says it lies on."""
    with torch._C.DisableTorchFunction():
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            return tensor.device
        return tensor.untyped_storage().__dict__.get("stand_in", CPU)


def tag(tensor: torch.Tensor, device: torch.device) -> None:
    with torch._C.DisableTorchFunction():
        if tensor.device.type == "cpu" and tensor.layout is torch.strided:
            tensor.untyped_storage().stand_in = device


def named(device: object) -> torch.device:
    """The device of a name or number; the first one where it has no number."""
    found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cuda", 0) if found.type == "cuda" and found.index is None else found


def tensors_in(*values: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class _Operations(TorchDispatchMode):
    """Refuses tensors of unlike devices, and tags what an operation makes."""

    ambient = CPU  # of what is made from no tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = tensors_in(args, kwargs)
        device = self._device(func, given, args)
        made = func(*args, **(kwargs or {}))
        if device.type == "cuda":
            known = {_storage(each) for each in given}
            for each in tensors_in(made):
                if _storage(each) not in known:
                    tag(each, device)
        return made

    def _device(self, func: Any, given: Sequence[torch.Tensor], args: tuple[Any, ...]) -> torch.device:
        if not given:
            return self.ambient
        packet = func.overloadpacket
        if packet in ANY_DEVICES:
            return place(given[0])
        number = torch.Tag.pointwise in func.tags or packet in NUMBERS or "_foreach" in str(packet)
        places = {place(each) for each in given if not (number and each.dim() == 0 and place(each) == CPU)}
        if packet in INDEXED:
            own = place(args[0])
            if own != CPU and (packet is aten.index or place(given[-1]) != CPU):
                places -= {CPU}
            places |= {own}
        places -= {torch.device("meta")}
        if len(places) > 1:
            raise RuntimeError(f"{func}: tensors on {' and '.join(sorted(map(str, places)))}")
        return next(iter(places), CPU)


def _storage(tensor: torch.Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


class _Calls(TorchFunctionMode):
    """Answers what Python asks of a tensor's device, and moves tensors."""

    def __init__(self, operations: _Operations) -> None:
        super().__init__()
        self._operations = operations
        self._own: dict[Any, Callable[..., Any]] = {
            T.device.__get__: place,
            T.is_cuda.__get__: lambda tensor: place(tensor).type == "cuda",
            T.is_cpu.__get__: lambda tensor: place(tensor) == CPU,
            T.get_device: lambda tensor: -1 if place(tensor) == CPU else place(tensor).index,
            T.to: self._to,
            T.cpu: lambda tensor, *args, **kwargs: self._to(tensor, CPU),
            T.cuda: lambda tensor, device="cuda", *args, **kwargs: self._to(tensor, device),
            T.numpy: self._for_numpy(T.numpy),
            T.__array__: self._for_numpy(T.__array__),
            T.pin_memory: lambda tensor, *args: tensor,
            T.is_pinned: lambda tensor, *args: False,
            T.backward: self._backward,
            torch.device: self._device_of,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        own = self._own.get(func)
        if own is not None:
            return own(*args, **kwargs)
        kwargs.pop("pin_memory", None)
        given, device = tensors_in(args, kwargs), CPU
        if kwargs.get("device") is not None:
            device = named(kwargs["device"])
            kwargs["device"] = CPU if device.type == "cuda" else device
        elif given:
            device = next((place(each) for each in given if place(each).type == "cuda"), CPU)
        with self._around(device):
            made = func(*args, **kwargs)
        if kwargs.get("device") is not None and device.type == "cuda":
            for each in tensors_in(made):
                tag(each, device)
        if func is T.__deepcopy__:
            tag(made, place(args[0]))
        return made

    @contextlib.contextmanager
    def _around(self, device: torch.device) -> Iterator[None]:
        before = self._operations.ambient
        self._operations.ambient = device
        try:
            yield
        finally:
            self._operations.ambient = before

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copied = kwargs.pop("copy", False)
        if args and isinstance(args[0], torch.Tensor):
            args = (place(args[0]), args[0].dtype, *args[1:])
        if "other" in kwargs:
            other = kwargs.pop("other")
            args = (place(other), other.dtype)
        if isinstance(kwargs.get("device"), int):
            kwargs["device"] = named(kwargs["device"])
        args = tuple(named(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in args)
        device, dtype, _, form = torch._C._nn._parse_to(*args, **kwargs)
        device = place(tensor) if device is None else named(device)
        if device.type not in ("cpu", "cuda") or place(tensor).type not in ("cpu", "cuda"):
            return tensor.to(*args, **kwargs)
        form = torch.preserve_format if form is None else form
        moves = device != place(tensor)
        made = tensor.to(dtype=dtype or tensor.dtype, copy=copied or moves, memory_format=form)
        if moves:
            tag(made, device)
        return made

    def _device_of(self, *args: Any, **kwargs: Any) -> torch.device:
        return named(args[0]) if args and isinstance(args[0], int) else torch.device(*args, **kwargs)

    def _for_numpy(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def given(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if place(tensor) != CPU:
                raise TypeError(f"can't convert {place(tensor)} device type tensor to numpy")
            return method(tensor, *args, **kwargs)

        return given

    def _backward(self, tensor: torch.Tensor, gradient: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> None:
        with self._around(place(tensor)), self:  # formulas of our own run in it, and ask for devices
            torch.autograd.backward(tensor, gradient, *args, **kwargs)

    def record(self, device: torch.device, step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """What a graph repeats, a tape repeats; and it refuses what a graph cannot hold."""
        replay = tape.record(step)

        def again() -> torch.Tensor:
            with self._around(device), torch._C.DisableTorchFunction():
                return replay()

        return again


@contextlib.contextmanager
def accelerators(count: int = 1) -> Iterator[torch.device]:
    """So many CUDA devices stand in; the first of them is the default."""
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "get_device_name": lambda device=None: "stand-in",
        "is_bf16_supported": lambda including_emulation=True: False,
        "manual_seed_all": lambda seed: None,
        "device": lambda device: contextlib.nullcontext(),
    }
    generator: dict[str, Any] = {
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)] * count,
        "set_rng_state": lambda state, device=None: None,
        "set_rng_state_all": lambda states: None,
    }
    operations = _Operations()
    with contextlib.ExitStack() as stack:
        for module, those in ((torch.cuda, answers), (torch.cuda, generator), (torch.cuda.random, generator)):
            for name, answer in those.items():
                stack.enter_context(mock.patch.object(module, name, answer))
        calls = _Calls(operations)
        stack.enter_context(
            mock.patch("trimtab.models.cached_model.CudaGraphs", lambda device: partial(calls.record, device))
        )
        # modes hold for one thread
        stack.enter_context(mock.patch.dict(os.environ, {"HF_DEACTIVATE_ASYNC_LOAD": "1"}))
        stack.enter_context(operations)
        stack.enter_context(calls)
        yield torch.device("cuda", 0)
