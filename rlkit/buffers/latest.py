"""The buffer of agents that learn from each step as it comes: the latest one, and the one before it."""

from __future__ import annotations

from rlkit.buffers.transition import Transition


class LatestSteps:
    """The last two vector steps; the one before is None at first."""

    latest: Transition
    previous: Transition | None = None

    def add(self, step: Transition) -> None:
        """Forgets the step before the latest, and makes room for this one."""
        self.previous = getattr(self, "latest", None)
        self.latest = step
