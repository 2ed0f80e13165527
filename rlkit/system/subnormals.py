"""Subnormal numbers, which are those too small for a full mantissa: flushed to zero while we compute.

Adam's moments of a unit whose ReLU is off decay until they are subnormal, and then each operation on them takes Intel's
processors a hundred cycles. The processor has a mode, one for each thread, in which it takes such numbers for zero.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import TracebackType

ELEMENTS_FOR_ALL_THREADS = 2**20
"""Numbers that torch adds with all of its threads."""
_SUBNORMAL = 1e-310


def are_flushed() -> bool:
    """Tells if this thread's processor takes subnormal numbers for zero now."""
    return _SUBNORMAL * 1.0 == 0.0


class flushed:
    """Makes this thread, and those that it starts, take subnormal numbers for zero inside the block.

    With `flush` False it makes them compute as IEEE 754 says, as an environment may expect. Where the processor has no
    such mode, nothing changes. It is a class because it surrounds every step of an environment, and a context manager
    made of a generator takes more than twice as long.
    """

    __slots__ = ("_before", "_flush")

    def __init__(self, flush: bool = True) -> None:
        self._flush = flush

    def __enter__(self) -> None:
        self._before = are_flushed()
        _switch()(self._flush)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _switch()(self._before)


@cache
def _switch() -> Callable[[bool], bool]:
    import torch  # only here, since importing it takes long

    if torch.get_num_threads() > 1:
        # Torch's own threads take the mode of the thread that starts them, and flush as long as the one does that they
        # compute for. One that was started flushing would never stop, not for an environment's own torch either.
        torch.ones(ELEMENTS_FOR_ALL_THREADS).add_(1)
    return torch.set_flush_denormal
