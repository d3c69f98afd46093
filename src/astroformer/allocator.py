"""The C library's memory allocator, set for training on a CPU."""

from __future__ import annotations

import ctypes

# mallopt's numbers and the largest values it takes, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER_TRIM, _LARGEST_BLOCK = 2**31 - 1, 2**30


def keep_freed_memory() -> bool:
    """Lets the process keep the memory that tensors free, until it ends; says whether that could be set.

    By default glibc gives large blocks back to the system at once and asks for them anew in the next step, and every
    page of them is then faulted in again, in every step. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))
