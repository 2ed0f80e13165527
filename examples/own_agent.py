"""An agent of your own, the smallest that learns: REINFORCE with a linear policy, for vectors and Discrete actions.

A saved run names it by its module, so this script trains with `own_agent:Linear`, itself, as another module would be.
On the command line, where this file is on Python's path:

    PYTHONPATH=examples python -m rlkit agent=own_agent:Linear env=CartPole-v1

In the package, an agent is a file in agents/ and a row in its table. CONTRIBUTING.md explains the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces

import rlkit
from rlkit.advantages import gae
from rlkit.agents.base import Agent
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Step
from rlkit.errors import RlkitError, check_fields
from rlkit.setting import AgentConfig, Setting
from rlkit.spaces import MASKED_LOGIT, Array, Obs, masked


@dataclass
class LinearConfig(AgentConfig):
    """REINFORCE's hyperparameters."""

    name: ClassVar[str] = "linear"

    num_steps: int = 64
    """Steps per environment between updates."""
    learning_rate: float = 0.02
    """Adam's step size."""
    gamma: float = 0.99
    """Discount factor."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_fields(self, "agent", counts=["num_steps"], positive=["learning_rate"], shares=["gamma"])


class Linear(Agent[RolloutBuffer]):
    """A softmax over a linear function of the observation."""

    config: LinearConfig

    def __init__(self, config: LinearConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        observations, actions = setting.observation_space, setting.action_space
        if not isinstance(observations, spaces.Box) or not isinstance(actions, spaces.Discrete):
            raise RlkitError(f"agent=linear needs Box observations and Discrete actions, not {actions}")
        self.start = actions.start
        self.device, self.compute = "cpu", "torch"
        self.steps_per_update = config.num_steps
        self.rng = np.random.default_rng(setting.seed)
        self.model = torch.nn.Linear(int(np.prod(observations.shape)), int(actions.n))
        torch.nn.init.zeros_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.learning_rate)

    def make_buffer(self, num_envs: int) -> RolloutBuffer:
        return RolloutBuffer(self.config.num_steps, num_envs)

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        with torch.no_grad():
            logits = masked(self._logits(obs[0]).numpy(), action_mask)
        noise = self.rng.gumbel(size=logits.shape) if explore else 0
        action = np.argmax(logits + noise, axis=1)
        return Step(action, action + self.start)

    def update(self, buffer: RolloutBuffer, progress: float) -> dict[str, float]:
        zeros = np.zeros_like(buffer.rewards)  # with λ = 1 and no values, advantages are discounted returns
        returns = gae(buffer.rewards, zeros, zeros, buffer.terminated, buffer.truncated, self.config.gamma, 1.0)
        valid = buffer.valid  # where a vector environment only reset itself there is nothing to learn
        weights = torch.as_tensor((returns[valid] - returns[valid].mean()) / (returns[valid].std() + 1e-8))
        logits = self._logits(buffer.obs[0][:-1][valid])
        if buffer.action_masks is not None:
            logits = logits.masked_fill(torch.as_tensor(~buffer.action_masks[valid]), float(MASKED_LOGIT))
        actions = torch.as_tensor(buffer.actions[valid])
        loss = (torch.nn.functional.cross_entropy(logits, actions, reduction="none") * weights).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        buffer.clear()
        return {"train/policy_loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]

    def _logits(self, obs: Array) -> torch.Tensor:
        logits: torch.Tensor = self.model(torch.as_tensor(obs, dtype=torch.float32).flatten(1))
        return logits


def main() -> None:
    """Trains it on CartPole-v1, loads it back and evaluates it."""
    result = rlkit.train(agent="own_agent:Linear", env="CartPole-v1", total_timesteps=50_000, seed=0)
    evaluation = rlkit.evaluate_policy(rlkit.load(result.run_dir), "CartPole-v1")
    print(f"{evaluation.return_mean:.1f} ± {evaluation.return_std:.1f}")


if __name__ == "__main__":
    main()
