"""How many threads torch computes with: one for a few rows, whichever number is set for more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
