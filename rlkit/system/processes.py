"""What processes that work together need: a start without Ctrl-C, an end with their parent, memory, and a lock.

Everything here is the kernel's to clean up: memory and lock are files without a name, which are gone with the last
process that has them, however it ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection, get_context, parent_process, reduction, resource_tracker
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SPAWN = get_context("spawn")
"""How all processes are started: a fork of a process with threads, as torch's is, may hang."""


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds Ctrl-C back from this thread until the end, and for good from the processes that it starts meanwhile."""
    resource_tracker.ensure_running()  # starting it later would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(closing_time: float = 0.0) -> None:
    """Ends this process when its parent is gone, even if the main thread hangs, after `closing_time` seconds."""
    Thread(target=_exit_after_parent, args=(closing_time,), daemon=True).start()


def _exit_after_parent(closing_time: float) -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        time.sleep(closing_time)
        os._exit(1)


def run_child(target: str, *args: Any) -> None:
    """Calls `package.module:function` in a child process, which ends with its parent from its first moment on.

    The module is imported only then: with torch in it, that takes seconds.
    """
    end_with_parent()
    module, _, name = target.partition(":")
    getattr(importlib.import_module(module), name)(*args)


class SharedArray:
    """A NumPy array of zeros that processes share: it goes to them as an argument when they are started."""

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._memory = SPAWN.RawArray("b", max(1, math.prod(self._shape)) * self._dtype.itemsize)

    @property
    def array(self) -> NDArray[Any]:
        """A view of the memory."""
        return np.frombuffer(self._memory, self._dtype, math.prod(self._shape)).reshape(self._shape)


class KernelLock:
    """A lock between processes, which the kernel takes back from a process that dies while it holds it."""

    def __init__(self, received: Any = None) -> None:
        """`received` is what pickling makes of one for a process that is being started."""
        if received is not None:
            self._descriptor: int = received.detach()
        else:
            with tempfile.TemporaryFile() as nameless:
                self._descriptor = os.dup(nameless.fileno())

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def __reduce__(self) -> tuple[Any, ...]:
        return KernelLock, (reduction.DupFd(self._descriptor),)

    def __del__(self) -> None:
        os.close(self._descriptor)
