"""A network of your own, which every agent can stand on: CartPole's four numbers, each with its square.

A saved run names it by its module, so it must be found in one: this script trains with `own_network:Squares`, itself,
as another module would be. On the command line, where this file is on Python's path:

    PYTHONPATH=examples python -m rlkit env=CartPole-v1 network.module=own_network:Squares
"""

from __future__ import annotations

import torch
from gymnasium import spaces

import rlkit


class Squares(torch.nn.Module):
    """Features of a vector: one hidden layer on its numbers and their squares."""

    def __init__(self, observation_space: spaces.Box, num_features: int = 64) -> None:
        super().__init__()
        self.num_features = num_features
        self.layer = torch.nn.Linear(2 * observation_space.shape[0], num_features)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """(batch, numbers) -> (batch, num_features)."""
        return torch.nn.functional.silu(self.layer(torch.cat([obs, obs**2], 1)))


def main() -> None:
    """Trains PPO on it, loads it back and evaluates it."""
    network = {"module": "own_network:Squares", "module_args": {"num_features": 32}, "hidden_sizes": [32]}
    result = rlkit.train(agent="ppo", env="CartPole-v1", network=network, total_timesteps=20_000, seed=0)
    evaluation = rlkit.evaluate_policy(rlkit.load(result.run_dir), "CartPole-v1")
    print(f"{evaluation.return_mean:.1f} ± {evaluation.return_std:.1f}")


if __name__ == "__main__":
    main()
