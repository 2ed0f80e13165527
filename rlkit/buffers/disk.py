"""Arrays on disk instead of in memory, in files without a name: the system takes them back however a run ends."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from rlkit.errors import RlkitError
from rlkit.spaces import Array


def zeros_on_disk(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of zeros that is mapped from a file in `folder`, and lives as long as it is used.

    Raises RlkitError where the folder cannot be written to, or has no room for it.
    """
    needed = math.prod(shape) * dtype.itemsize
    try:
        # On Linux it never has a name, elsewhere hardly a moment: nothing is left behind, not even by kill -9.
        with TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # without, a full disk would end the process at some later write
                os.posix_fallocate(file.fileno(), 0, max(1, needed))
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        raise RlkitError(f"agent.buffer_dir={folder} cannot hold {needed:,} bytes: {error.strerror}") from error


def check_disk(name: str, size: int, needed: int, folder: Path) -> None:
    """Raises RlkitError if a buffer of `size` transitions, set by the field `name`, needs more bytes than are free."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RlkitError(f"agent.buffer_dir={folder} cannot be used: {error.strerror}") from error
    if needed > free:
        fits = size * free // needed
        raise RlkitError(
            f"{name}={size:_} needs {needed:,} bytes of agent.buffer_dir={folder}, but only {free:,} are free: "
            f"at most about {fits:_} transitions fit"
        )
