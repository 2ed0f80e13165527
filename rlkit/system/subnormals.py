"""Subnormal numbers, which are those too small for a full mantissa: flushed to zero while we compute.

Adam's moments of a unit whose ReLU is off decay until they are subnormal, and then each operation on them takes Intel's
processors a hundred cycles. The processor has a mode, one for each thread, in which it takes such numbers for zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_SUBNORMAL = 1e-310


def are_flushed() -> bool:
    """Tells if this thread's processor takes subnormal numbers for zero now."""
    return _SUBNORMAL * 1.0 == 0.0


@contextmanager
def flushed(flush: bool = True) -> Iterator[None]:
    """Makes this thread, and those that it starts, take subnormal numbers for zero inside the block.

    With `flush` False it makes them compute as IEEE 754 says, as an environment may expect. Where the processor has no
    such mode, nothing changes.
    """
    import torch  # only here, since importing it takes long

    before = are_flushed()
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
