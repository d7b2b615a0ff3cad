"""The devices of this machine: which one models run on, what it computes in, and how many processes share it.

>>> pick_dtype("float32", torch.device("cpu"))
torch.float32
"""

import os

import torch

from trimtab.config.models import Dtype
from trimtab.models.agreement import dtype_name


def default_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The element type for a model: as named, or for `auto` bfloat16 where the hardware multiplies it, else float32.

    A CPU multiplies it with AMX or AVX512-BF16; without them it is several times slower than float32.
    """
    if dtype != "auto":
        types = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        return next(kind for kind in types if dtype_name(kind) == dtype)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = device.type == "cpu" and any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def processes_a_device(jobs: int, device_type: str) -> int:
    """How many of so many processes share a device's memory at most."""
    return -(-jobs // max(len(visible_devices()), 1)) if device_type == "cuda" else jobs


def visible_devices() -> list[str]:
    """The CUDA devices that this process may use, each as CUDA_VISIBLE_DEVICES names it: a number or a UUID."""
    count = torch.cuda.device_count()  # asks NVML: this process takes no memory of any device
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in listed.split(",")]
    if count and all(name.startswith("MIG-") for name in names):
        return names  # one process sees the first slice alone, whatever is listed
    return names[:count]  # CUDA ignores the first wrong name and all behind it
