"""SARSA (Rummery & Niranjan 1994) in a table: on-policy, towards the value of the action that is really taken next.

Read top to bottom: the hyperparameters, the agent. The table is in `rlkit.tabular`, the ε-greedy policy in
`rlkit.exploration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.agents.base import Agent, Step, as_batch
from rlkit.buffers.latest import LatestSteps
from rlkit.buffers.transition import Transition
from rlkit.config import NetworkConfig
from rlkit.errors import check_choice, check_fields
from rlkit.returns import td_targets
from rlkit.schedules import ANNEALINGS, annealed
from rlkit.spaces import Array, Obs


@dataclass
class SARSAConfig:
    """SARSA's hyperparameters; for discrete observations and actions."""

    name: ClassVar[str] = "sarsa"

    expected: bool = False
    """Expected SARSA: towards the mean value over all next actions, as likely as they are, instead of the one taken."""
    learning_rate: float = 0.1
    """How far each step moves a value towards its target."""
    learning_rate_end: float | None = None
    """What the learning rate is at the end of the run; null: what it was at the start."""
    learning_rate_schedule: str = "linear"
    """`linear`: it falls by equal steps; `exponential`: by equal factors."""
    gamma: float = 0.99
    """Discount factor."""
    epsilon_start: float = 1.0
    """The probability of a random action at the start."""
    epsilon_end: float = 0.05
    """The same after `exploration_fraction` of the run."""
    epsilon_schedule: str = "linear"
    """`linear`: it falls by equal steps; `exponential`: by equal factors."""
    exploration_fraction: float = 0.5
    """The share of the run in which ε falls."""
    initial_value: float = 0.0
    """Of every entry of the table; an optimistic one makes the agent try everything."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, ANNEALINGS)
        check_choice("agent.epsilon_schedule", self.epsilon_schedule, ANNEALINGS)
        exponential_epsilon = ("epsilon_start", "epsilon_end") if self.epsilon_schedule == "exponential" else ()
        check_fields(
            self,
            "agent",
            positive=("learning_rate", "learning_rate_end", "exploration_fraction", *exponential_epsilon),
            shares=(
                *("learning_rate", "learning_rate_end", "gamma"),
                *("epsilon_start", "epsilon_end", "exploration_fraction"),
            ),
        )


class SARSA(Agent):
    """Explores ε-greedily, and learns from every step once the next action is chosen.

    At an episode's end there is none: the value of a truncated episode's last observation is the policy's mean.
    """

    action_spaces = (spaces.Discrete,)

    def __init__(
        self,
        config: SARSAConfig,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        network: NetworkConfig | None = None,
        num_envs: int = 1,
        seed: int = 0,
        device: str = "auto",
        compute: str = "auto",
    ) -> None:
        from rlkit.tabular import QTable  # here, because it imports torch

        self.config, self.network_config = config, network or NetworkConfig()
        self.observation_space, self.action_space = observation_space, action_space
        self.device, self.compute = "cpu", "numpy"
        self.steps_per_update = 1
        self.table = QTable(
            observation_space,
            action_space,
            initial_value=config.initial_value,
            seed=seed,
            device=device,
            compute=compute,
            agent=config.name,
        )
        self.table.epsilon = config.epsilon_start
        self.model = self.table.model

    def make_buffer(self, num_envs: int) -> LatestSteps:
        return LatestSteps()

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        action = self.table.act(obs, action_mask, explore)
        return Step(action, action + self.table.first_action)

    def update(self, buffer: LatestSteps, progress: float) -> dict[str, float]:
        config, table, step = self.config, self.table, buffer.latest
        end = config.learning_rate if config.learning_rate_end is None else config.learning_rate_end
        learning_rate = annealed(config.learning_rate_schedule, config.learning_rate, end, progress)
        share = progress / config.exploration_fraction
        table.epsilon = annealed(config.epsilon_schedule, config.epsilon_start, config.epsilon_end, share)

        table.remember(step.obs, step.action_mask, step.valid)
        errors = []
        if not config.expected and buffer.previous is not None:  # now its next action is known
            before = buffer.previous
            next_values = table.q_values(step.obs)[np.arange(len(step.action)), step.action]
            going_on = before.valid & ~before.terminated & ~before.truncated
            errors += self._learn(before, next_values, learning_rate, going_on)
        next_values = table.expected_values(step.reached(), table.epsilon)
        at_once = step.valid & (config.expected | step.terminated | step.truncated)  # no action will follow
        errors += self._learn(step, next_values, learning_rate, at_once)
        metrics = {"train/epsilon": table.epsilon, "train/learning_rate": learning_rate}
        return metrics | ({"train/td_error": float(np.mean(np.abs(errors)))} if errors else {})

    def _learn(self, step: Transition, next_values: Array, learning_rate: float, chosen: Array) -> list[float]:
        targets = td_targets(step.reward, next_values, step.terminated, self.config.gamma)
        return self.table.learn(step.obs, step.action, targets, learning_rate, chosen)

    def q_values(self, obs: Any) -> Array:
        """The values of all actions for a batch of observations: (batch, number of actions)."""
        return self.table.q_values(as_batch(self.observation_space, obs)[0])

    def value(self, obs: Any) -> Array:
        """The values of a batch of observations under the ε-greedy policy: (batch,)."""
        return self.table.expected_values(as_batch(self.observation_space, obs)[0], self.table.epsilon)

    def action_probabilities(self, obs: Any, action_masks: Array | None = None) -> Array:
        """Of the ε-greedy policy, for a batch of observations: (batch, number of actions)."""
        batch, _ = as_batch(self.observation_space, obs)
        return self.table.probabilities(batch, self.table.epsilon, action_masks)

    def state_dict(self) -> dict[str, Any]:
        return self.table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table.load_state_dict(state)
