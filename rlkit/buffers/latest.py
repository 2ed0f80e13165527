"""The buffer of agents that learn from each step as it comes: it holds the last two."""

from __future__ import annotations

from typing import Any

from rlkit.buffers.transition import Transition, stacked_steps, unstacked_steps


class LatestSteps:
    """A buffer of the last two vector steps."""

    def __init__(self) -> None:
        self._steps: list[Transition] = []

    @property
    def latest(self) -> Transition:
        """The last step that was added; there must be one."""
        return self._steps[-1]

    @property
    def previous(self) -> Transition | None:
        """The step before it, if there was one."""
        return self._steps[0] if len(self._steps) == 2 else None

    def add(self, step: Transition) -> None:
        """Stores one vector step, and forgets all but the one before it."""
        self._steps = [*self._steps[-1:], step.kept()]

    def cut_off(self, envs: list[int]) -> None:
        """Forgets both steps, since they are of all environments."""
        self._steps = []

    def state_dict(self) -> dict[str, Any]:
        """Both steps, as copies."""
        return {"steps": stacked_steps(self._steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self._steps = unstacked_steps(state["steps"])
