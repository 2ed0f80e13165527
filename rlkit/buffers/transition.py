"""One step of a vector environment, and the protocol of the buffers that collectors hand it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

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
    """The observations that the next actions are chosen from: a new episode's first one where one has just begun."""
    final_obs: dict[int, Obs]
    """The final observation of each ended episode by environment index, where `next_obs` is of the new one."""
    valid: Array
    """False where the environment only reset itself: such a row is no experience."""
    action_mask: Array | None
    next_action_mask: Array | None = None
    """True for each action that `next_obs` allows: (num_envs, actions); None: all are allowed."""

    def reached(self) -> Obs:
        """The observations that the actions led to: an ended episode's own last one, not the next one's first."""
        if not self.final_obs:
            return self.next_obs
        batch = tuple(leaf.copy() for leaf in self.next_obs)
        for env, last in self.final_obs.items():
            for leaf, part in zip(batch, last, strict=True):
                leaf[env] = part
        return batch

    def kept(self) -> Transition:
        """A copy that can be kept.

        Vector environments may overwrite rewards and flags, and agents the actions that they handed out. Observations
        and masks are copies already.
        """
        return self._replace(
            action=self.action.copy(),
            reward=self.reward.copy(),
            terminated=self.terminated.copy(),
            truncated=self.truncated.copy(),
        )


ARRAYS = ("action", "reward", "terminated", "truncated", "valid")
"""Fields of a step that are always an array."""
MASKS = ("action_mask", "next_action_mask")
"""Fields of a step that are an array or None."""


def stacked_steps(steps: Sequence[Transition]) -> dict[str, Any]:
    """Returns many steps as a few arrays, for states that are stored: each has a row per step."""
    if not steps:
        return {"count": 0}
    finals = [(t, env, last) for t, step in enumerate(steps) for env, last in step.final_obs.items()]
    state: dict[str, Any] = {"count": len(steps), "finals": [[t, env] for t, env, _ in finals]}
    state["final_obs"] = [np.stack(leaf) for leaf in zip(*(last for _, _, last in finals), strict=True)]
    for name in ("obs", "next_obs"):
        state[name] = [np.stack(leaf) for leaf in zip(*(getattr(step, name) for step in steps), strict=True)]
    for name in ARRAYS:
        state[name] = np.stack([getattr(step, name) for step in steps])
    for name in MASKS:
        known = [(t, mask) for t, step in enumerate(steps) if (mask := getattr(step, name)) is not None]
        masks = np.stack([mask for _, mask in known]) if known else None
        state[name] = {"steps": [t for t, _ in known], "masks": masks}
    return state


def unstacked_steps(state: Mapping[str, Any]) -> list[Transition]:
    """Makes the steps again of which `stacked_steps` returned the state."""
    steps = []
    for t in range(state["count"]):
        masks: dict[str, Any] = {name: _row_of(state[name]["steps"], state[name]["masks"], t) for name in MASKS}
        final_obs = {
            env: tuple(leaf[i].copy() for leaf in state["final_obs"])
            for i, (step, env) in enumerate(state["finals"])
            if step == t
        }
        obs, next_obs = (tuple(leaf[t].copy() for leaf in state[name]) for name in ("obs", "next_obs"))
        arrays = {name: state[name][t].copy() for name in ARRAYS}
        steps.append(Transition(obs=obs, next_obs=next_obs, final_obs=final_obs, **arrays, **masks))
    return steps


def _row_of(steps: Sequence[int], masks: Array | None, step: int) -> Array | None:
    if masks is None or step not in steps:
        return None
    row: Array = masks[list(steps).index(step)].copy()
    return row


class Buffer(Protocol):
    """Storage that a collector fills and an agent learns from; each agent makes the kind that suits it."""

    def add(self, step: Transition) -> None:
        """Stores one vector step."""


@runtime_checkable
class LastingBuffer(Buffer, Protocol):
    """A buffer whose contents can be stored and restored, so that a run can be resumed."""

    def state_dict(self) -> dict[str, Any]:
        """All that is stored between two updates: nested dicts and lists of arrays and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""

    def cut_off(self, envs: list[int]) -> None:
        """Notes that the open episodes of these environments do not go on: other ones begin with the next step."""


BufferT = TypeVar("BufferT", bound=Buffer)
"""The kind of buffer that an agent learns from."""
