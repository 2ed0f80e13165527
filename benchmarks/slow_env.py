"""CartPole whose step takes a millisecond longer, as a simulator's would, for a3c.py and torchrun.py.

Its id, in this folder: `slow_env:SlowCartPole-v1`.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class SlowCartPole(CartPoleEnv):
    """Waits a millisecond before each step; the data are CartPole's."""

    def step(self, action: Any) -> Any:
        """CartPole's."""
        time.sleep(1e-3)
        return super().step(action)  # type: ignore[no-untyped-call]


gym.register("SlowCartPole-v1", "slow_env:SlowCartPole", max_episode_steps=500, reward_threshold=475.0)
