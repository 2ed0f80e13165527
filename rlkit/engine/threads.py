"""Threads: a limit on those that torch uses for small batches, and a pool of them for the C engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

from rlkit.system.subnormals import flushed

FEW_ROWS = 16
"""Batch size up to which torch computes with one thread."""


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Lets torch compute with a single thread until the block ends, if a batch has at most `FEW_ROWS` rows.

    A CNN takes 3 ms for eight frames. But if other processes keep the cores busy, waiting for a second thread in each
    layer has made that hundreds of milliseconds.
    """
    before = torch.get_num_threads()
    if before == 1 or rows > FEW_ROWS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    return ThreadPoolExecutor(threads, "rlkit")
