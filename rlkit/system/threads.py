"""One thread for all computing on the CPU: rounding then does not depend on the number of cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_changing = threading.Lock()
_limits: list[Any] = []
"""BLAS's limit while any thread of Python's is in `one_thread`, and an entry for each further one: BLAS has one number
of threads for the whole process, so that the last to leave gives it back."""


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
