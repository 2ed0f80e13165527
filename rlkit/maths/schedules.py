"""Schedules: coefficients that depend on the fraction of the run's budget that is spent."""

from __future__ import annotations

SCHEDULES = ("constant", "linear")
"""Kinds of schedules of coefficients such as learning rates; see `scheduled`."""
ANNEALINGS = ("linear", "exponential")
"""Kinds of annealing from one value to another; see `annealed`."""


def scheduled(kind: str, start: float, progress: float) -> float:
    """Returns the coefficient at `progress`, from 0 to 1: always `start`, or `linear`, falling from it to zero."""
    return start * max(0.0, 1.0 - progress) if kind == "linear" else start


def annealed(kind: str, start: float, end: float, fraction: float) -> float:
    """Anneals from `start`, at a fraction of 0, to `end`, at 1 and beyond.

    `linear` changes the value by equal steps, and `exponential` by equal factors.
    """
    fraction = min(1.0, fraction)
    return start * (end / start) ** fraction if kind == "exponential" else start + (end - start) * fraction
