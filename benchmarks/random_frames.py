"""Stacks of four random frames of 84 × 84 bytes, which move on by one with each step, for gpu.py.

Costs next to nothing to step, and is to networks and buffers what an Atari game is. Its id, in this folder:
`random_frames:RandomFrames-v0`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

STACK, FRAMES = 4, 512


class RandomFrames(gym.Env[Any, Any]):
    """Episodes start anywhere among the frames; the reward is 1 for every sixth action, whatever is seen."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (STACK, 84, 84), np.uint8)
        self.action_space = spaces.Discrete(6)
        self._frames = np.random.default_rng(0).integers(256, size=(FRAMES, 84, 84), dtype=np.uint8)
        self._at = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's."""
        super().reset(seed=seed)
        self._at = int(self.np_random.integers(FRAMES // 2))
        return self._frames[self._at : self._at + STACK], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Gymnasium's."""
        self._at += 1
        return self._frames[self._at : self._at + STACK], float(action == 0), False, False, {}


gym.register("RandomFrames-v0", "random_frames:RandomFrames", max_episode_steps=200)
