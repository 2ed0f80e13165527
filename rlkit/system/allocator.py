"""Memory that is freed stays with the process, to be used again: what the system gives anew, it has to clear first."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names of glibc's mallopt
LARGEST, MOST_FREE = 2**30, 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets arrays below a gigabyte take the place of freed ones, up to two gigabytes of them; says whether it could.

    A gradient step on images frees and asks for tens of megabytes at each layer. glibc gives arrays of that size back
    to the system at once, and fresh pages take a quarter of the step. For the whole process, until its end; with other
    allocators than glibc's nothing is done.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, MOST_FREE))
    return False
