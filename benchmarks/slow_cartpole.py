"""CartPole with a step that takes a millisecond longer, as a simulator's might; for a3c.py."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class SlowCartPole(CartPoleEnv):
    """Waits in each step."""

    def step(self, action: Any) -> Any:
        """Waits, and steps."""
        time.sleep(1e-3)
        return super().step(action)


gym.register("bench/SlowCartPole-v1", "slow_cartpole:SlowCartPole", max_episode_steps=500)
