"""Tells glibc to keep freed memory for the process: fresh pages cost a quarter of a CNN's gradient step."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

M_TRIM_THRESHOLD = -1
"""glibc's number for the option: how much free memory malloc keeps before it gives some back to the system."""
M_MMAP_THRESHOLD = -3
"""glibc's number for the option: from which size on an allocation bypasses the heap and is given back when freed."""
MAX_HEAP_ALLOCATION = 2**30
"""Bytes below which an array is taken from the heap, where freed memory is reused."""
MAX_FREE_MEMORY = 2**31 - 1
"""Bytes of freed memory that the process keeps; the largest number that mallopt takes."""


def keep_freed_memory() -> bool:
    """Makes malloc reuse freed memory for arrays below a gigabyte, and keep up to two gigabytes of it.

    A gradient step on images frees and allocates tens of megabytes at each layer. By default glibc returns blocks of
    that size to the system at once, which has to clear the pages it hands out anew: that takes a quarter of the step.
    The setting holds for the whole process until it ends. Returns False, and changes nothing, where the allocator is
    not glibc's.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            kept_on_heap = mallopt(M_MMAP_THRESHOLD, MAX_HEAP_ALLOCATION)
            return bool(kept_on_heap and mallopt(M_TRIM_THRESHOLD, MAX_FREE_MEMORY))
    return False
