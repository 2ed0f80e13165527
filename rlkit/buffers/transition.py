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
