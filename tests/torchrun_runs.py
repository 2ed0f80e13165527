"""Runs that tests/test_ranks.py compares: here by one process, and by those that torchrun starts for this file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import rlkit
from rlkit.run import Result

QUIET: dict[str, Any] = {"eval_interval": 0, "final_eval_episodes": 0, "checkpoint_interval": 0, "log_interval": 1}
NORMAL: dict[str, Any] = {"network.normalize_obs": True, "agent.normalize_rewards": True}
WALK: dict[str, Any] = {"env": "user_envs:user/Walk-v0", **NORMAL}
"""An environment that adds up its actions and forgets them after four steps: it passes rounding on as it is, where
Pendulum multiplies it by e every five steps of a fall."""
EQUAL: dict[str, dict[str, Any]] = {
    "a2c": {
        "agent": "a2c",
        "env": "CartPole-v1",
        "total_timesteps": 4 * 5 * 20,
        "agent.num_steps": 5,
        "agent.optimizer_eps": 1e-3,
    },
    "a2c, normalised": {
        "agent": "a2c",
        **WALK,
        "total_timesteps": 4 * 20 * 12,
        "agent.num_steps": 20,
        "agent.normalize_advantages": True,
        "agent.optimizer_eps": 1e-3,
        "compute": "torch",
    },
    "ppo": {
        "agent": "ppo",
        **WALK,
        "total_timesteps": 4 * 20 * 12,
        "agent.num_steps": 20,
        "agent.minibatch_size": 80,
        "agent.num_epochs": 5,
        "agent.noise_correlation": 0.5,
        "agent.learning_rate": 1e-3,
        "agent.target_kl": 1e-4,
        "agent.adam_eps": 1e-3,
    },
    "ppo, adaptive": {
        "agent": "ppo_adaptive_kl",
        "env": "CartPole-v1",
        "total_timesteps": 4 * 32 * 8,
        "agent.num_steps": 32,
        "agent.minibatch_size": 128,
        "agent.num_epochs": 4,
        "agent.learning_rate": 1e-2,
        "agent.kl_target": 8.7e-3,  # doubles the coefficient at first, where the second rank's KL alone would not
        "agent.adam_eps": 1e-3,
        "compute": "torch",
    },
}
"""What several processes train as one does, to rounding; ε keeps a gradient that is only rounding from being a step."""
PROBE: dict[str, Any] = {"env": "rlkit/ProbeActionObs-v0", "agent.learning_rate": 1e-2, "agent.gamma": 0.9}
OTHERS: dict[str, dict[str, Any]] = {
    "ppo, minibatches": {
        "agent": "ppo",
        **PROBE,
        "total_timesteps": 1536,
        "agent.num_steps": 32,
        "agent.num_epochs": 4,
        "agent.minibatch_size": 64,
        "agent.learning_rate_schedule": "constant",
    },
    "ppo, reset steps": {
        "agent": "ppo",
        "env": "CartPole-v1",
        "total_timesteps": 500,
        "agent.num_steps": 32,
        **NORMAL,
        "vectorization": "native",
        "agent.minibatch_size": 32,
        "agent.num_epochs": 2,
    },
    "dqn": {
        "agent": "dqn",
        **PROBE,
        "total_timesteps": 1024,
        "agent.num_steps": 8,
        "agent.gradient_steps": 12,
        "agent.learning_starts": 200,
        "agent.target.interval": 50,
        "agent.epsilon.fraction": 0.5,
    },
    "dqn, reset steps": {
        "agent": "dqn",
        "env": "CartPole-v1",
        "total_timesteps": 500,
        "agent.learning_starts": 300,
        "agent.replay.prioritized": True,
        "agent.epsilon.episodes": 20,
        "agent.gradient_steps": 2,
        "vectorization": "native",
        "network.normalize_obs": True,
    },
}
"""What they learn in another order: from minibatches of their own, or in lock-step only after waiting for others."""


def run(name: str, folder: Path, **changes: Any) -> Result:
    """One of the runs with 4 environments, its folder in `folder`."""
    settings = {"num_envs": 4, "vectorization": "sync", **QUIET, **{**EQUAL, **OTHERS}[name], **changes}
    return rlkit.train(run_dir=folder / name, tuned=False, **settings)


def numbers(result: Result) -> dict[str, Any]:
    """What a run has learned: parameters, statistics, and how many gradient steps it took."""
    agent: Any = result.agent
    steps = {"gradient steps": agent.engine.state_dict()["steps"]}
    return {**{name: tensor.numpy() for name, tensor in agent.model.state_dict().items()}, **steps}


def main(folder: Path) -> None:
    """All runs, one after the other; leaves what each rank has learned, and what it says of unequal settings."""
    rank = os.environ["RANK"]
    for name in (*EQUAL, *OTHERS):
        np.savez(folder / f"{name} {rank}.npz", **numbers(run(name, folder)))
    try:
        run("a2c", folder / "unequal", seed=int(rank))
    except rlkit.RlkitError as error:
        (folder / f"unequal {rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
