"""An environment with image observations for `backbone.py`: a board, seen from above, on which one walks to a goal."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlkit.spaces import Array

CELLS = 6
"""Rows and columns of the board."""
PIXELS = 6
"""Height and width of a cell in the image, which is thus 36 x 36."""
MOVES = ((-1, 0), (0, -1), (1, 0), (0, 1))
FLOOR, WALKER, GOAL = (30, 30, 40), (80, 140, 255), (255, 200, 60)


class Reach(gym.Env[Array, np.int64]):
    """A board on which each move up, left, down or right costs 0.02; reaching the goal gives 1 and ends the episode.

    The walker and the goal start in random cells, on average 4 steps apart, so that the best policy's mean return is
    0.92.
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
        """Moves the walker by one cell, unless the border is in the way."""
        self.walker = np.clip(self.walker + MOVES[action], 0, CELLS - 1)
        reached = bool((self.walker == self.goal).all())
        return self.render(), float(reached) - 0.02, reached, False, {}

    def render(self) -> Array:
        """Returns an image of the board, (36, 36, 3) bytes."""
        board = np.full((CELLS, CELLS, 3), FLOOR, np.uint8)
        board[tuple(self.goal)] = GOAL
        board[tuple(self.walker)] = WALKER
        image: Array = board.repeat(PIXELS, 0).repeat(PIXELS, 1)
        return image


gym.register("Reach-v0", entry_point=f"{__name__}:Reach", max_episode_steps=30)
