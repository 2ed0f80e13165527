"""An environment whose observations are stacks of four random frames of bytes: of 84 × 84 for gpu.py, or of 10 × 10.

A step shifts the stack by one frame and costs next to nothing, so that networks and buffers, which get data like an
Atari game's or MinAtar's, make up the time. Its ids, in this folder, are `random_frames:RandomFrames-v0` and, for
small_images.py, `random_frames:RandomSmallFrames-v0`.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

STACK, FRAMES = 4, 512


class RandomFrames(gym.Env[Any, Any]):
    """An environment of random frames, at any of which episodes start; one of six actions has a reward of 1."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    steps: ClassVar[int] = 0
    """Steps of all instances in this process."""
    timed_from: ClassVar[int] = 1
    """The number of the step at which `started` is read from the clocks."""
    started: ClassVar[tuple[float, float]] = (0.0, 0.0)
    """The wall clock and the process's CPU time then, in seconds."""

    def __init__(self, size: int = 84) -> None:
        self.observation_space = spaces.Box(0, 255, (STACK, size, size), np.uint8)
        self.action_space = spaces.Discrete(6)
        self._frames = np.random.default_rng(0).integers(256, size=(FRAMES, size, size), dtype=np.uint8)
        self._at = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts at a random frame."""
        super().reset(seed=seed)
        self._at = int(self.np_random.integers(FRAMES // 2))
        return self._frames[self._at : self._at + STACK], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Shifts the stack by one frame."""
        RandomFrames.steps += 1
        if RandomFrames.steps == RandomFrames.timed_from:
            RandomFrames.started = time.perf_counter(), time.process_time()
        self._at += 1
        return self._frames[self._at : self._at + STACK], float(action == 0), False, False, {}


gym.register("RandomFrames-v0", "random_frames:RandomFrames", max_episode_steps=200)
gym.register("RandomSmallFrames-v0", "random_frames:RandomFrames", max_episode_steps=200, kwargs={"size": 10})
