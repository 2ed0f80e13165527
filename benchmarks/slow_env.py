"""CartPole with a step that takes a millisecond longer, as a simulator's might, for other benchmarks in this folder.

Its id, in this folder, is `slow_env:SlowCartPole-v1`.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class SlowCartPole(CartPoleEnv):
    """CartPole that waits for a millisecond before each step; its data are unchanged."""

    def step(self, action: Any) -> Any:
        """Waits, and then steps CartPole."""
        time.sleep(1e-3)
        return super().step(action)  # type: ignore[no-untyped-call]


gym.register("SlowCartPole-v1", "slow_env:SlowCartPole", max_episode_steps=500, reward_threshold=475.0)
