"""Schedules: a coefficient by the share of the run's budget that is already spent."""

from __future__ import annotations

SCHEDULES = ("constant", "linear")
ANNEALINGS = ("linear", "exponential")


def scheduled(kind: str, start: float, progress: float) -> float:
    """The coefficient at `progress` in [0, 1]: `start` all along, or falling linearly from it to zero."""
    return start * max(0.0, 1.0 - progress) if kind == "linear" else start


def annealed(kind: str, start: float, end: float, share: float) -> float:
    """From `start` at a share of 0 to `end` at 1 and beyond: by equal steps, or `exponential`, by equal factors."""
    share = min(1.0, share)
    return start * (end / start) ** share if kind == "exponential" else start + (end - start) * share
