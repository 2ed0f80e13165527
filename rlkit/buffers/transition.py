"""One step of a vector environment, as collectors hand it to buffers."""

from __future__ import annotations

from typing import NamedTuple

from rlkit.spaces import Array, Obs


class Transition(NamedTuple):
    """A vector step: every array has one row per environment."""

    obs: Obs
    action: Array
    reward: Array
    terminated: Array
    """The MDP ended: there is no next value."""
    truncated: Array
    """The episode was cut short: the value of its last observation still counts."""
    next_obs: Obs
    """What the next action is chosen from: the new episode's first observation where one has just begun."""
    final_obs: dict[int, Obs]
    """By environment index, an ended episode's own last observation, where `next_obs` is of the new one."""
    valid: Array
    """False where the environment only reset itself: such a row is no experience."""
    action_mask: Array | None
    next_action_mask: Array | None = None
    """Which actions `next_obs` allows."""

    def reached(self) -> Obs:
        """The observation that each action led to: an ended episode's own last one, not the next one's first."""
        if not self.final_obs:
            return self.next_obs
        batch = tuple(leaf.copy() for leaf in self.next_obs)
        for env, last in self.final_obs.items():
            for leaf, part in zip(batch, last, strict=True):
                leaf[env] = part
        return batch
