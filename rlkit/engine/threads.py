"""Threads: how many torch computes with, and several that share what the C engine has to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

FEW_ROWS = 16


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """One thread until the end of the block if there are no more than `FEW_ROWS`.

    Eight frames take a CNN 3 ms; where other processes keep the cores busy, waiting for a second thread in each layer
    has made hundreds of that.
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
    """Calls all tasks, on this thread and up to `threads` - 1 others; raises what one of them raised.

    Whichever thread is free takes the next task: where other processes keep the cores busy, this one does all of them
    rather than wait for a thread that has not begun.
    """
    waiting = iter(tasks)

    def work() -> None:
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
