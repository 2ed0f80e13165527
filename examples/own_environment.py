"""An environment of your own, in which the agent walks along a line to a goal. On the command line, from this folder:

python -m rlkit agent=ppo env=own_environment:Line-v0 env_kwargs={length:5}
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import rlkit


class Line(gym.Env[NDArray[np.float32], np.int64]):
    """A line on which the agent starts in the middle and steps left (0) or right (1); only the right end pays 1."""

    def __init__(self, length: int = 7) -> None:
        self.length = length
        self.position = 0
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode in the middle."""
        super().reset(seed=seed)
        self.position = self.length // 2
        return self._obs(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Moves the agent by one; either end of the line ends the episode."""
        self.position += 1 if action == 1 else -1
        at_goal = self.position == self.length - 1
        return self._obs(), float(at_goal), at_goal or self.position == 0, False, {}

    def _obs(self) -> NDArray[np.float32]:
        return np.array([self.position / (self.length - 1)], np.float32)


gym.register("Line-v0", entry_point=f"{__name__}:Line", max_episode_steps=100)


def main() -> None:
    """Trains PPO on the line and prints its mean return, which is 1 once it has learned to walk right."""
    result = rlkit.train(agent="ppo", env="Line-v0", env_kwargs={"length": 5}, total_timesteps=10_000, seed=0)
    print(result.summary["eval_return_mean"])


if __name__ == "__main__":
    main()
