"""An environment with an observation of several kinds for `mixed_observations.py`: one part names the right action."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlkit.spaces import Array

ACTIONS = 3
PIXELS = 12
NUMBERS = 4


class NamedAction(gym.Env[dict[str, Any], np.int64]):
    """Ten steps, each with a reward of 1 for the action that `named` names; the other parts are noise.

    Chance earns 3.3 and the best policy 10. The image is of bytes, or with `scaled` of numbers from 0 to 1.
    """

    def __init__(self, scaled: bool = False) -> None:
        self.scaled = scaled
        shape = (PIXELS, PIXELS)
        image = spaces.Box(0, 1, shape, np.float32) if scaled else spaces.Box(0, 255, shape, np.uint8)
        numbers = spaces.Box(-1, 1, (NUMBERS,), np.float32)
        self.observation_space = spaces.Dict({"image": image, "named": spaces.Discrete(ACTIONS), "numbers": numbers})
        self.action_space = spaces.Discrete(ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode of ten steps, which a time limit ends."""
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Rewards the action that was named, and names another."""
        reward = float(action == self.named)
        return self._observe(), reward, False, False, {}

    def _observe(self) -> dict[str, Any]:
        self.named = int(self.np_random.integers(ACTIONS))
        pixels: Array = self.np_random.integers(0, 256, (PIXELS, PIXELS), np.uint8)
        image = pixels.astype(np.float32) / 255 if self.scaled else pixels
        numbers = self.np_random.uniform(-1, 1, NUMBERS).astype(np.float32)
        return {"image": image, "named": self.named, "numbers": numbers}


gym.register("NamedAction-v0", entry_point=f"{__name__}:NamedAction", max_episode_steps=10)
