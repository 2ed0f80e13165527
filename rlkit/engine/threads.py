"""A limit on the threads that torch computes small batches with, for agents that act outside of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
