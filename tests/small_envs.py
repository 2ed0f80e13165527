"""Environments for tests, small enough to know what comes out of them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

LIMIT = 4


class Counting(gym.Env[Any, Any]):
    """Observes how many steps the episode has had, is truncated at the fourth, rewards with the step's number."""

    def __init__(self, limit: int = LIMIT, terminate: bool = False) -> None:
        self.limit, self.terminate = limit, terminate
        self.observation_space = spaces.Box(0, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == self.limit
        return self._obs(), float(self.steps), over and self.terminate, over and not self.terminate, {}

    def _obs(self) -> NDArray[np.float32]:
        return np.array([self.steps], np.float32)


class NativeCounting(VectorEnv[Any, Any, Any]):
    """`Counting` as a vector environment of its own, with NEXT_STEP autoreset, as Gymnasium's native ones have."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0, np.inf, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        assert seed is None or isinstance(seed, int)
        self.steps = np.arange(self.num_envs) % LIMIT  # so that episodes end at different times
        self.over = np.zeros(self.num_envs, bool)
        return self._obs(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps = np.where(self.over, 0, self.steps + 1)
        rewards = np.where(self.over, 0, self.steps).astype(np.float64)
        self.over = self.steps == LIMIT
        return self._obs(), rewards, np.zeros(self.num_envs, bool), self.over.copy(), {}

    def _obs(self) -> NDArray[np.float32]:
        return self.steps[:, None].astype(np.float32)
