"""Whether storage fits into memory, asked before it is filled: later it would be the system that ends the run."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rlkit.errors import RlkitError


def check_memory(name: str, size: int, needed: int, way_out: str = "") -> None:
    """Raises RlkitError if a buffer of `size` transitions, set by the field `name`, needs more bytes than there are.

    `way_out` is what the user may do beside choosing a smaller size.
    """
    available = available_memory()
    if available is not None and needed > available:
        fits = size * available // needed
        raise RlkitError(
            f"{name}={size:_} needs {needed:,} bytes of memory, but only {available:,} are available: "
            f"at most about {fits:_} transitions fit{way_out}"
        )


def available_memory() -> int | None:
    """The bytes that this process may still take, by the system and by its control group; None where nobody says."""
    limits = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" where there is no limit
    if not limits:
        with suppress(OSError, ValueError, AttributeError):
            limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)
