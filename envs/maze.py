"""The maze, which has 4 columns and 3 rows with a wall, a good and a bad goal; all its values are known exactly."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

COLUMNS, ROWS = 4, 3
WALL = (2, 2)
GOALS = {(4, 3): 10.0, (4, 2): -10.0}
"""Reward of each goal by its cell, (column, row), which are counted from 1 at the lower left."""
MOVE_REWARD = -1.0
MOVES = ((-1, 0), (0, -1), (1, 0), (0, 1))
"""Steps (columns, rows) of the actions left, down, right and up."""

CELL_PIXELS = 64
COLORS = {".": (255, 255, 255), "#": (96, 96, 96), "+": (120, 200, 120), "-": (220, 110, 110), "A": (60, 90, 200)}


def state_of(cell: tuple[int, int]) -> int:
    """Returns the observation for a cell; cells are numbered row by row from the lower left."""
    return (cell[1] - 1) * COLUMNS + cell[0] - 1


CELLS = tuple((column, row) for row in range(1, ROWS + 1) for column in range(1, COLUMNS + 1))
"""All cells, including the wall, in the order of their observations."""


def _transitions() -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
    table: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {}
    for cell in CELLS:
        table[state_of(cell)] = {}
        for action, (right, up) in enumerate(MOVES):
            following = (cell[0] + right, cell[1] + up)
            if following not in CELLS or following == WALL:
                following = cell
            outcome = (1.0, state_of(following), MOVE_REWARD, False)
            if cell in GOALS or cell == WALL:  # the wall is never entered; its entry only completes the table
                outcome = (1.0, state_of(cell), GOALS.get(cell, 0.0), True)
            table[state_of(cell)][action] = [outcome]
    return table


class Maze(gym.Env[Any, Any]):
    """A maze in which the agent walks to the good goal, (4, 3), around the wall, (2, 2), and the bad goal, (4, 2).

    It starts in any free cell. Actions 0 to 3 move left, down, right and up, with a reward of -1, even if the wall or
    the border prevents the move. On a goal, any action gets its reward, 10 or -10, and ends the episode.

    Known answer: the values at gamma = 0.9, columns from left to right:

    | row 3 | 4.58 | 6.2 | 8 | 10 |
    |---|---|---|---|---|
    | row 2 | 3.122 | wall | 6.2 | -10 |
    | row 1 | 1.8098 | 3.122 | 4.58 | 3.122 |

    `P[state][action]` lists (probability, next state, reward, terminated), as Gymnasium's own tabular environments do.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium declares it)
    observation_space: spaces.Space[Any] = spaces.Discrete(COLUMNS * ROWS)
    action_space: spaces.Space[Any] = spaces.Discrete(len(MOVES))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.P = _transitions()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Starts in a random cell that is not the wall, or in `options["cell"]`.

        It may be a goal, where an episode has one step. Raises ValueError for a cell that is the wall or outside.
        """
        super().reset(seed=seed)
        free = [cell for cell in CELLS if cell != WALL]
        cell = (options or {}).get("cell") or free[self.np_random.integers(len(free))]
        if tuple(cell) not in free:
            raise ValueError(f"one cannot start in {cell}: expected a cell (column, row) other than the wall {WALL}")
        self.state = state_of(cell)
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Moves the agent, or on a goal gives its reward and ends the episode."""
        ((_, self.state, reward, terminated),) = self.P[self.state][int(action)]
        return self.state, reward, terminated, False, {}

    def render(self) -> Any:
        """Returns the maze from above: three lines of text, or (height, width, 3) bytes; None without a render mode."""
        if self.render_mode is None:
            return None
        rows = [[self._symbol((column, row)) for column in range(1, COLUMNS + 1)] for row in range(ROWS, 0, -1)]
        if self.render_mode == "ansi":
            return "\n".join(" ".join(symbols) for symbols in rows) + "\n"
        return np.vstack([np.hstack([self._tile(symbol) for symbol in symbols]) for symbols in rows])

    def _symbol(self, cell: tuple[int, int]) -> str:
        if state_of(cell) == self.state:
            return "A"
        if cell in GOALS:
            return "+" if GOALS[cell] > 0 else "-"
        return "#" if cell == WALL else "."

    def _tile(self, symbol: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Draws one cell with a dark border; the agent is a square in its middle."""
        tile = np.full((CELL_PIXELS, CELL_PIXELS, 3), 40, np.uint8)
        tile[1:-1, 1:-1] = COLORS["." if symbol == "A" else symbol]
        if symbol == "A":
            tile[16:-16, 16:-16] = COLORS["A"]
        return tile


def register_maze() -> None:
    """Registers the maze as `rlkit/Maze-v0`, whose episodes are truncated after 100 steps."""
    gym.register("rlkit/Maze-v0", f"{__name__}:Maze", max_episode_steps=100)
