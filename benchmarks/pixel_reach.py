"""An environment of images for `backbone.py`: walk to the goal, on a board that is seen from above."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlkit.spaces import Array

CELLS, PIXELS = 6, 6  # a board of 6 x 6 cells, in an image of 36 x 36
MOVES = ((-1, 0), (0, -1), (1, 0), (0, 1))
FLOOR, WALKER, GOAL = (30, 30, 40), (80, 140, 255), (255, 200, 60)


class Reach(gym.Env[Array, np.int64]):
    """Up, left, down and right for -0.02 each; reaching the goal is worth 1 and ends the episode.

    Both start anywhere. The best policy gets 0.92 in the mean: the goal is 4 steps away.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        size = CELLS * PIXELS
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Puts the walker and the goal into two different cells."""
        super().reset(seed=seed)
        cells = self.np_random.choice(CELLS**2, 2, replace=False)
        self.walker, self.goal = (np.array(divmod(int(cell), CELLS)) for cell in cells)
        return self.render(), {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Moves by a cell, or not at all at the border."""
        self.walker = np.clip(self.walker + MOVES[action], 0, CELLS - 1)
        reached = bool((self.walker == self.goal).all())
        return self.render(), float(reached) - 0.02, reached, False, {}

    def render(self) -> Array:
        """(36, 36, 3) bytes."""
        board = np.full((CELLS, CELLS, 3), FLOOR, np.uint8)
        board[tuple(self.goal)] = GOAL
        board[tuple(self.walker)] = WALKER
        image: Array = board.repeat(PIXELS, 0).repeat(PIXELS, 1)
        return image


gym.register("Reach-v0", entry_point=f"{__name__}:Reach", max_episode_steps=30)
