"""Threads for computing on the CPU, of which waiting ones neither spin nor change results.

Threads of OpenMP, which are torch's, spin while they wait for each other: where other programs keep the cores busy, a
gradient step takes ten times the CPU time. And sums depend on how many there are. So torch computes with one thread,
and large batches are split into shards, whose number depends on the batch alone: the cores do them in whatever order.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

from rlkit.system.processes import num_cores
from rlkit.system.subnormals import flushed

ASKED_FOR = "OMP_NUM_THREADS"
"""The environment variable with which a user asks for a number of threads, torch's own among them."""

_changing = threading.Lock()
_limits: list[Any] = []
"""BLAS's limit while any thread of Python's is in `one_thread`, and an entry for each further one: BLAS has one number
of threads for the whole process, so that the last to leave gives it back."""
_one_core = False
"""True in a process that has one core to itself, beside others that have theirs."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Makes torch and NumPy compute with one thread inside the block, also if several threads of Python's do so.

    Small networks are computed faster like this, and orthogonal weights, which come from a QR decomposition, are
    rounded as they would be on any other number of cores.
    """
    import torch  # only here, since importing it takes long
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()  # torch keeps a number for each thread of Python's
    with _changing:
        _limits.append(None if _limits else threadpool_limits(1))
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _changing:
            if len(_limits) == 1:
                _limits[0].restore_original_limits()
                _limits.clear()
            else:
                _limits.pop()
        torch.set_num_threads(before)


@contextmanager
def one_thread_unless_asked() -> Iterator[None]:
    """Makes torch compute with one thread inside the block, or leaves it its threads if OMP_NUM_THREADS is set."""
    if os.environ.get(ASKED_FOR):
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_core() -> Iterator[None]:
    """Makes this process compute with one thread inside the block, its shards too: other processes have the cores."""
    global _one_core
    before, _one_core = _one_core, True
    try:
        with one_thread():
            yield
    finally:
        _one_core = before


def shard_threads() -> int:
    """Returns the number of threads that shards are computed on: OMP_NUM_THREADS, or else one for each core."""
    if _one_core:
        return 1
    asked = os.environ.get(ASKED_FOR, "").partition(",")[0].strip()  # OpenMP takes a list, for nested threads
    return max(1, int(asked)) if asked.isdecimal() else num_cores()


def in_threads(tasks: Sequence[Callable[[], None]], threads: int) -> None:
    """Calls all tasks, on this thread and up to `threads` - 1 others; raises the exception that a task raised.

    The next task goes to whichever thread is free. If other processes keep the cores busy, this thread therefore does
    all of them itself, rather than wait for threads that have not begun.
    """
    waiting = iter(tasks)

    def work() -> None:
        with flushed():
            for task in waiting:
                task()

    helpers = min(threads, len(tasks)) - 1
    futures = [_pool(threads - 1).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        for future in futures:
            if not future.cancel():
                future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    def compute_with_one_thread() -> None:
        import torch

        torch.set_num_threads(1)

    return ThreadPoolExecutor(threads, "rlkit", compute_with_one_thread)
