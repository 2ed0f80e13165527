"""Workloads of throughput.py: hyperparameters by rlkit's names, and the equal arguments of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workload:
    """One agent on one environment; hyperparameters that are not named here are equal in both systems by default."""

    title: str
    agent: str
    timesteps: int
    num_envs: int
    hyperparameters: dict[str, Any]
    """Fields of rlkit's agent config."""
    hidden_sizes: tuple[int, ...]
    activation: str
    env: str = "CartPole-v1"
    sb3_num_envs: tuple[int, ...] = ()
    """Numbers of environments that SB3 is tried with, for rollouts of rlkit's size; if empty, only rlkit's number."""
    solved: float | None = None
    """Mean return of an evaluation at which the environment counts as solved; None: this is not measured."""
    goal: float = 0.0
    """Ratio to SB3's steps per second that rlkit should reach."""

    def rlkit_arguments(self) -> list[str]:
        """Returns the arguments of rlkit's command line."""
        fields = {
            "agent": self.agent,
            "env": self.env,
            "num_envs": self.num_envs,
            "network.hidden_sizes": f"[{','.join(map(str, self.hidden_sizes))}]",
            "network.activation": self.activation,
            **{f"agent.{name}": value for name, value in self.hyperparameters.items()},
        }
        return ["~tuned", *(f"{name}={value}" for name, value in fields.items())]

    def sb3_arguments(self, num_envs: int | None = None) -> dict[str, Any]:
        """Returns the keyword arguments of SB3's agent, for an equal network, optimiser and amount of work.

        Rollouts are as large as rlkit's, even if the number of environments is another.
        """
        from torch import nn

        given = self.hyperparameters
        policy = {
            "net_arch": list(self.hidden_sizes),
            "activation_fn": {"tanh": nn.Tanh, "relu": nn.ReLU}[self.activation],
        }
        common = {"gamma": given["gamma"], "learning_rate": _schedule(given, "learning_rate"), "policy_kwargs": policy}
        num_envs = num_envs or self.num_envs
        if num_envs != self.num_envs:
            given = given | {"num_steps": given["num_steps"] * self.num_envs // num_envs}
        return common | {"ppo": _ppo, "a2c": _a2c, "dqn": _dqn}[self.agent](given, num_envs)


def _ppo(given: dict[str, Any], num_envs: int) -> dict[str, Any]:
    return {
        "n_steps": given["num_steps"],
        "batch_size": given["minibatch_size"],
        "n_epochs": given["num_epochs"],
        "gae_lambda": given["gae_lambda"],
        "clip_range": _schedule(given, "clip_coef"),
        "ent_coef": given["ent_coef"],
    }


def _a2c(given: dict[str, Any], num_envs: int) -> dict[str, Any]:
    return {
        "n_steps": given["num_steps"],
        "gae_lambda": given["gae_lambda"],
        "ent_coef": given["ent_coef"],
        "vf_coef": given["vf_coef"],
        "max_grad_norm": given["max_grad_norm"],
        "use_rms_prop": given["optimizer"] == "rmsprop",
        "rms_prop_eps": given["optimizer_eps"],
        "normalize_advantage": given["normalize_advantages"],
    }


def _dqn(given: dict[str, Any], num_envs: int) -> dict[str, Any]:
    steps_per_update = given["num_steps"] * num_envs
    return {
        "buffer_size": given["replay.size"],
        # SB3 learns once there are more transitions than this, rlkit once there are as many.
        "learning_starts": given["learning_starts"] - 1,
        "batch_size": given["minibatch_size"],
        "train_freq": given["num_steps"],
        "gradient_steps": given["gradient_steps"],
        # SB3 counts environment steps between updates of the target network, rlkit gradient steps.
        "target_update_interval": given["target.interval"] * steps_per_update // given["gradient_steps"],
        "exploration_fraction": given["epsilon.fraction"],
        "exploration_final_eps": given["epsilon.end"],
    }


def _schedule(given: dict[str, Any], name: str) -> float | Callable[[float], float]:
    """Returns SB3's form of a schedule, which is a function of the share of the run that remains."""
    start: float = given[name]
    return (lambda remaining: remaining * start) if given[f"{name}_schedule"] == "linear" else start


DQN = {  # RL Zoo's for CartPole-v1, with a falling learning rate
    "learning_rate": 2.3e-3,
    "learning_rate_schedule": "linear",
    "gamma": 0.99,
    "replay.size": 100_000,
    "learning_starts": 1000,
    "minibatch_size": 64,
    "epsilon.fraction": 0.16,
    "epsilon.end": 0.04,
}

WORKLOADS = {
    "ppo_cartpole": Workload(
        "PPO on CartPole-v1, RL Zoo's hyperparameters",
        agent="ppo",
        timesteps=100_000,
        num_envs=8,
        hyperparameters={
            "num_steps": 32,
            "minibatch_size": 256,
            "num_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "learning_rate": 1e-3,
            "learning_rate_schedule": "linear",
            "clip_coef": 0.2,
            "clip_coef_schedule": "linear",
            "ent_coef": 0.0,
        },
        hidden_sizes=(64, 64),
        activation="tanh",
        solved=475,
        goal=8,
    ),
    "ppo_lunarlander": Workload(
        "PPO on LunarLander-v3, RL Zoo's hyperparameters",
        agent="ppo",
        env="LunarLander-v3",
        timesteps=16 * 1024 * 6,
        num_envs=16,
        hyperparameters={
            "num_steps": 1024,
            "minibatch_size": 64,
            "num_epochs": 4,
            "gamma": 0.999,
            "gae_lambda": 0.98,
            "learning_rate": 3e-4,
            "learning_rate_schedule": "constant",
            "clip_coef": 0.2,
            "clip_coef_schedule": "constant",
            "ent_coef": 0.01,
        },
        hidden_sizes=(64, 64),
        activation="tanh",
        goal=3,
    ),
    "ppo_native_1024": Workload(
        "PPO on CartPole-v1, rollouts of 32,768 steps: rlkit with 1,024 environments in Gymnasium's own vector "
        "implementation, SB3 with the number of environments that is fastest for it",
        agent="ppo",
        timesteps=32_768 * 32,
        num_envs=1024,
        hyperparameters={
            "num_steps": 32,
            "minibatch_size": 4096,
            "num_epochs": 4,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "learning_rate": 3e-3,
            "learning_rate_schedule": "linear",
            "clip_coef": 0.2,
            "clip_coef_schedule": "constant",
            "ent_coef": 0.0,
        },
        hidden_sizes=(64, 64),
        activation="tanh",
        sb3_num_envs=(32, 128),  # with 8, SB3 made half as many steps per second
        goal=20,
    ),
    "a2c_cartpole": Workload(
        "A2C on CartPole-v1, RL Zoo's hyperparameters",
        agent="a2c",
        timesteps=200_000,
        num_envs=8,
        hyperparameters={
            "num_steps": 5,
            "gamma": 0.99,
            "gae_lambda": 1.0,
            "learning_rate": 7e-4,
            "learning_rate_schedule": "constant",
            "ent_coef": 0.0,
            "vf_coef": 0.5,
            "max_grad_norm": 0.5,
            "normalize_advantages": False,
            "optimizer": "rmsprop",
            "optimizer_eps": 1e-5,
        },
        hidden_sizes=(64, 64),
        activation="tanh",
        goal=7,
    ),
    "dqn_cartpole": Workload(
        "DQN on CartPole-v1, 128 gradient steps after every 256 steps, as in RL Zoo",
        agent="dqn",
        timesteps=50_000,
        num_envs=1,
        # RL Zoo updates the target network every 10 steps, which is once per update, since it learns only every 256.
        hyperparameters={**DQN, "num_steps": 256, "gradient_steps": 128, "target.interval": 128},
        hidden_sizes=(256, 256),
        activation="relu",
        goal=5,
    ),
    "dqn_cartpole_every_4": Workload(
        "DQN on CartPole-v1, a gradient step after every 4 steps",
        agent="dqn",
        timesteps=50_000,
        num_envs=1,
        hyperparameters={**DQN, "num_steps": 4, "gradient_steps": 1, "target.interval": 125},
        hidden_sizes=(256, 256),
        activation="relu",
        goal=5,
    ),
}
"""All workloads by name, which is part of the names of the results' files."""
