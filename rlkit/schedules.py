"""How a coefficient changes over a run: functions of the share of the budget already spent."""

from __future__ import annotations

SCHEDULES = ("constant", "linear")


def scheduled(kind: str, start: float, progress: float) -> float:
    """The coefficient at `progress` in [0, 1]: `start` all along, or falling linearly from it to zero."""
    return start * max(0.0, 1.0 - progress) if kind == "linear" else start
