"""Wrappers around single environments."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

Env = gym.Env[Any, Any]
Transition = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class ActionMaskInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Puts what the environment's `action_masks()` returns into info["action_mask"], as a boolean array.

    At the end of an episode there is nothing to choose any more, and no mask.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._action_masks = env.get_wrapper_attr("action_masks")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; info has the mask for the first action."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, self._with_mask(info)

    def step(self, action: Any) -> Transition:
        """Steps the environment; info has the mask for the next action."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info if terminated or truncated else self._with_mask(info)

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "action_mask": np.asarray(self._action_masks(), dtype=np.bool_)}


class CopyFinalObs(gym.Wrapper[Any, Any, Any, Any]):
    """Copies an episode's last observation, which some environments overwrite when they reset."""

    def step(self, action: Any) -> Transition:
        """Steps the environment."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return deepcopy(obs) if terminated or truncated else obs, reward, terminated, truncated, info
