"""The rollout buffer: the steps that an on-policy agent learns from once, and then overwrites."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkit.buffers.transition import Transition
from rlkit.spaces import Array, Obs


class RolloutBuffer:
    """Room for `num_steps` vector steps, which is allocated once, at the first `add`.

    Arrays are (num_steps, num_envs, …); `obs` has one step more, the observation after the last action.
    """

    obs: Obs
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    valid: Array
    action_masks: Array | None = None

    def __init__(self, num_steps: int, num_envs: int) -> None:
        self.num_steps = num_steps
        self.num_envs = num_envs
        self.final_obs: dict[tuple[int, int], Obs] = {}
        """Final observations of episodes that were cut short, by (step, environment): `obs` has the next episode's."""
        self._length = 0
        self._allocated = False

    def __len__(self) -> int:
        return self._length

    def add(self, step: Transition) -> None:
        """Stores one vector step; a buffer that holds `num_steps` of them has to be cleared first."""
        if not self._allocated:
            self._allocate(step)
        t = self._length
        for stored, first, next_ in zip(self.obs, step.obs, step.next_obs, strict=True):
            if t == 0:
                stored[0] = first
            stored[t + 1] = next_
        self.actions[t] = step.action
        self.rewards[t] = step.reward
        self.terminated[t] = step.terminated
        self.truncated[t] = step.truncated
        self.valid[t] = step.valid
        if self.action_masks is None and step.action_mask is not None:
            # The first one may come at any step; where there was none, every action was allowed.
            self.action_masks = np.ones((self.num_steps, *step.action_mask.shape), np.bool_)
        if self.action_masks is not None:
            self.action_masks[t] = True if step.action_mask is None else step.action_mask
        for env, last in step.final_obs.items():
            if not step.terminated[env]:
                self.final_obs[t, env] = last
        self._length += 1

    def clear(self) -> None:
        """Forgets the rollout, and keeps its memory for the next one."""
        self._length = 0
        self.final_obs.clear()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a rollout is learned from, and forgotten, by the update that follows it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores nothing."""

    def cut_off(self, envs: list[int]) -> None:
        """Does nothing: between two updates there are no steps."""

    def flat_obs(self) -> Obs:
        """All observations as one batch of (num_steps + 1) * num_envs rows, step by step.

        Row t * num_envs + e is the observation that the transition of step t in environment e began with.
        """
        return tuple(leaf.reshape(-1, *leaf.shape[2:]) for leaf in self.obs)

    def final_batch(self) -> tuple[Array, Array, Obs]:
        """The steps, the environments and the batched observations of `final_obs`; at least one must be there."""
        steps, envs = np.array(list(self.final_obs)).T
        return steps, envs, tuple(np.stack(leaf) for leaf in zip(*self.final_obs.values(), strict=True))

    def _allocate(self, step: Transition) -> None:
        size = (self.num_steps, self.num_envs)
        self.obs = tuple(np.zeros((size[0] + 1, *leaf.shape), leaf.dtype) for leaf in step.obs)
        self.actions = np.zeros((size[0], *step.action.shape), step.action.dtype)
        self.rewards = np.zeros(size, np.float32)
        self.terminated = np.zeros(size, np.bool_)
        self.truncated = np.zeros(size, np.bool_)
        self.valid = np.zeros(size, np.bool_)
        self._allocated = True


def minibatch_notes(minibatch_size: int, num_steps: int, num_envs: int) -> list[str]:
    """Tells the user if a whole rollout is smaller than a minibatch, and is learned from as one; empty otherwise."""
    if minibatch_size <= (rollout := num_steps * num_envs):
        return []
    return [
        f"each rollout is one minibatch: agent.num_steps={num_steps} x num_envs={num_envs} = {rollout} transitions, "
        f"fewer than agent.minibatch_size={minibatch_size}"
    ]
