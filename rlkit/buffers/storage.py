"""Storage for a replay buffer's observations: arrays in memory or on disk, and the checks that there is enough room.

A buffer that grew until the system ended the run would lose it, so its full size is checked before it is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from rlkit.errors import RlkitError
from rlkit.spaces import Array

Storage: TypeAlias = Any
"""An array, or a `DeviceArray`, which is written to in the same way and whose `take` returns tensors."""
Allocate: TypeAlias = Callable[[int, np.dtype[Any]], Storage]
"""(number of rows, type of a row) -> storage full of zeros: `np.zeros` in memory, `zeros_on_disk` in a folder."""


def row_type(space: spaces.Space[Any]) -> np.dtype[Any]:
    """The type of one stored observation of a leaf space, shape included, in no more bytes than networks can use.

    It is one of NumPy's subarray types: `base` is the type of its numbers, `itemsize` the bytes of the whole.
    """
    dtype = np.dtype(space.dtype)
    if isinstance(space, spaces.Discrete):
        dtype = np.result_type(np.min_scalar_type(space.start), np.min_scalar_type(space.start + space.n - 1))
    return np.dtype((np.float32 if dtype == np.float64 else dtype, space.shape or ()))


def zeros_on_disk(rows: int, row: np.dtype[Any], *, folder: Path) -> Array:
    """An array of zeros, (rows, *row.shape), that is mapped from a file in `folder` and lives as long as it is used.

    The file has no name, so the system frees its space however the run ends. Raises RlkitError where the folder
    cannot be written to, or has no room for it.
    """
    needed = rows * row.itemsize
    try:
        # On Linux it never has a name, elsewhere hardly a moment: nothing is left behind, not even by kill -9.
        with TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # without, a full disk would end the process at some later write
                os.posix_fallocate(file.fileno(), 0, max(1, needed))
            return np.asarray(np.memmap(file, row.base, "r+", shape=(rows, *row.shape)))
    except OSError as error:
        raise RlkitError(f"agent.replay.folder={folder} cannot hold {needed:,} bytes: {error.strerror}") from error


def copied(array: Array, allocate: Allocate) -> Storage:
    """A copy of the array in storage that `allocate` makes."""
    copy = allocate(len(array), np.dtype((array.dtype, array.shape[1:])))
    copy[:] = array
    return copy


def saved(storage: Storage, allocate: Allocate) -> Array:
    """A copy for `state_dict`, which holds arrays only: on disk if the storage is, else in memory."""
    in_memory = isinstance(storage, np.ndarray)
    array: Array = copied(storage, allocate if len(storage) else np.zeros) if in_memory else storage.numpy()
    return array


def on_host(found: Any) -> Array:
    """The array of what `take` returned, be it an array or a tensor."""
    array: Array = found if isinstance(found, np.ndarray) else found.cpu().numpy()
    return array


def check_memory(size: int, needed: int, way_out: str = "") -> None:
    """Raises RlkitError if a buffer of `size` transitions needs more bytes of memory than are available.

    `way_out` is what the user may do beside choosing a smaller size.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise RlkitError(
            f"agent.replay.size={size:_} needs {needed:,} bytes of memory, but only {available:,} are available: "
            f"at most about {size * available // needed:_} transitions fit{way_out}"
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


def check_disk(size: int, needed: int, folder: Path) -> None:
    """Raises RlkitError if a buffer of `size` transitions needs more bytes than are free on the folder's disk."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RlkitError(f"agent.replay.folder={folder} cannot be used: {error.strerror}") from error
    if needed > free:
        raise RlkitError(
            f"agent.replay.size={size:_} needs {needed:,} bytes of agent.replay.folder={folder}, but only {free:,} are "
            f"free: at most about {size * free // needed:_} transitions fit"
        )
