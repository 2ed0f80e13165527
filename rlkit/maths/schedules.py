"""How a coefficient changes over a run, by the share of the budget already spent, and what is due now and then."""

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


class Every:
    """True once in every `interval` timesteps; never for an interval of 0, and as by `default` for None."""

    def __init__(self, interval: int | None, default: int) -> None:
        self.interval = max(1, default) if interval is None else interval
        self._next = self.interval

    def __call__(self, timesteps: int) -> bool:
        if self.interval == 0 or timesteps < self._next:
            return False
        self._next = (timesteps // self.interval + 1) * self.interval
        return True
