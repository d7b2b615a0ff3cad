"""The devices of this machine: which one models run on, what they compute in, and how many processes share it.

torch is imported only where the question cannot be answered without it, since that takes seconds.

    >>> dtype_for("float32"), dtype_bytes("bfloat16")
    ('float32', 2)
"""

import functools
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.config.models import Dtype

if TYPE_CHECKING:
    import torch

DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
"""What a processor that multiplies bfloat16 says it can do."""


def default_device() -> "torch.device":
    """The first CUDA device, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_type() -> str:
    """`cuda` or `cpu`, as of `default_device`."""
    return "cpu" if "torch" not in sys.modules and not _built_for_accelerators() else default_device().type


def pick_dtype(dtype: Dtype, device: "torch.device") -> "torch.dtype":
    """The element type for a model: as named, or for `auto` bfloat16 where the hardware multiplies it, else float32.

    A CPU multiplies it with AMX or AVX512-BF16; without them it is several times slower than float32.
    """
    import torch

    if dtype != "auto":
        types = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        return next(kind for kind in types if str(kind) == f"torch.{dtype}")
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = device.type == "cpu" and any(capabilities.get(name, False) for name in BFLOAT16_FLAGS)
    return torch.bfloat16 if fast else torch.float32


def dtype_for(dtype: Dtype) -> str:
    """The name of the element type that `pick_dtype` gives on the default device."""
    if dtype != "auto":
        return dtype
    flags = None if "torch" in sys.modules or _built_for_accelerators() else _processor_flags()
    if flags is None:
        return str(pick_dtype(dtype, default_device())).removeprefix("torch.")
    return "bfloat16" if flags & BFLOAT16_FLAGS else "float32"


def dtype_bytes(dtype: Dtype) -> int:
    """Bytes of one weight."""
    return DTYPE_BYTES[dtype_for(dtype)]


@functools.cache
def _built_for_accelerators() -> bool:
    """Whether the installed torch can drive any device but the CPU: its version.py says what it was built for."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    if version is None or not version.is_file() or sys.platform != "linux":
        return True
    kinds = re.findall(r"^(cuda|hip|xpu): Optional\[str\] = (.+)$", version.read_text(encoding="utf-8"), re.MULTILINE)
    return not kinds or any(built != "None" for _, built in kinds)


@functools.cache
def _processor_flags() -> set[str] | None:
    """What the processor can do, as Linux lists it; None where it does not."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    return None if flags is None else set(flags[1].split())


def processes_a_device(jobs: int, device_type: str) -> int:
    """How many of `jobs` processes share a device's memory at most."""
    return -(-jobs // max(len(visible_devices()), 1)) if device_type == "cuda" else jobs


def visible_devices() -> list[str]:
    """The CUDA devices that this process may use, each as CUDA_VISIBLE_DEVICES names it: a number or a UUID."""
    if "torch" not in sys.modules and not _built_for_accelerators():
        return []
    import torch

    count = torch.cuda.device_count()  # asks NVML: this process takes no memory of any device
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in listed.split(",")]
    if count and all(name.startswith("MIG-") for name in names):
        return names  # one process uses only the first slice, however many are listed
    return names[:count]  # CUDA ignores the first wrong name and all behind it
