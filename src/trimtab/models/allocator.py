"""Keeps freed memory within the process, so that the next tensor of that size need not be mapped page by page again.

Decoding makes and drops tensors of many megabytes at every step. glibc's malloc gives each back to the system, and
touching fresh pages can cost several times what the copy into them does.

    >>> keep_freed_memory()
"""

import ctypes
import gc
import platform
from functools import cache

# <malloc.h>: mallopt's parameters, and the largest threshold that it takes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20


@cache
def keep_freed_memory() -> None:
    """Have glibc serve tensors of up to 32 MB from its heap and keep up to 1 GB of that free; elsewhere do nothing."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    libc.mallopt(_M_TRIM_THRESHOLD, 32 * _LARGEST)


def give_back_freed_memory() -> None:
    """Give the system what has been freed: after a stage whose tensors are of other sizes than those to come."""
    gc.collect()  # models and trainers know each other in circles
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
