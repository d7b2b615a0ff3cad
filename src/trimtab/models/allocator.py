"""Memory of the process: keep freed memory for the next tensors, or give it back to the system.

Decoding makes and drops tensors of many megabytes at every step. glibc's malloc gives each back to the system, and
touching fresh pages can cost several times as much as the copy into them.
"""

import ctypes
import gc
import platform
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, <malloc.h>
_MAX_THRESHOLD = 32 << 20  # bytes


@cache
def keep_freed_memory() -> None:
    """Have glibc serve tensors of up to 32 MB from its heap and keep up to 1 GB of that free; elsewhere do nothing."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAX_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 32 * _MAX_THRESHOLD)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, after a step whose tensors have other sizes than the next one's."""
    gc.collect()  # models and trainers refer to each other in circles
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
