"""SARSA (Rummery & Niranjan 1994): on-policy, towards the value of the action that is really taken next.

Read top to bottom: the hyperparameters, the agent. Its values, and how it acts by them, are in `rlkit.action_values`:
in a table for discrete observations, else by a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.agents.base import Agent, Step, as_batch, discrete_actions
from rlkit.buffers.latest import LatestSteps
from rlkit.config import NetworkConfig
from rlkit.errors import check_choice, check_fields
from rlkit.maths.returns import td_targets
from rlkit.maths.schedules import ANNEALINGS, annealed
from rlkit.spaces import Array, Obs


@dataclass
class SARSAConfig:
    """SARSA's hyperparameters; for Discrete actions."""

    name: ClassVar[str] = "sarsa"

    expected: bool = False
    """Expected SARSA: towards the mean value over all next actions, as likely as they are, instead of the one taken."""
    learning_rate: float | None = None
    """In a table: how far each step moves a value towards its target; of a network: Adam's step size. null: 0.1 and
    0.001."""
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
    """Of every entry of a table; an optimistic one makes the agent try everything."""

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
        # Imported here so that reading the config, as the command line does for --help, does not import torch.
        from rlkit.action_values import ActionValues, make_approximator

        self.config, self.network_config = config, network or NetworkConfig()
        self.observation_space, self.action_space = observation_space, action_space
        self._actions = discrete_actions(config.name, action_space)
        self.steps_per_update = 1
        init_seed, act_seed = np.random.SeedSequence(seed).spawn(2)
        approximator = make_approximator(
            observation_space,
            int(self._actions.n),
            initial_value=config.initial_value,
            network=self.network_config,
            seed=init_seed,
            device=device,
            compute=compute,
        )
        self.device, self.compute = approximator.device, approximator.compute
        self.values = ActionValues(approximator, config.epsilon_start, act_seed)
        self.model = self.values.model

    def make_buffer(self, num_envs: int) -> LatestSteps:
        return LatestSteps()

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        action = self.values.act(obs, action_mask, explore)
        return Step(action, (action + self._actions.start).astype(self._actions.dtype, copy=False))

    def update(self, buffer: LatestSteps, progress: float) -> dict[str, float]:
        config, values, step = self.config, self.values, buffer.latest
        start = values.approximator.default_learning_rate if config.learning_rate is None else config.learning_rate
        end = start if config.learning_rate_end is None else config.learning_rate_end
        learning_rate = annealed(config.learning_rate_schedule, start, end, progress)
        share = progress / config.exploration_fraction
        values.epsilon = annealed(config.epsilon_schedule, config.epsilon_start, config.epsilon_end, share)

        values.approximator.observe(step)
        expected = values.next_values(step, values.epsilon)
        targets = td_targets(step.reward, expected, step.terminated, config.gamma)
        at_once = step.valid & (config.expected | step.terminated | step.truncated)  # no action will follow
        lessons = [(step, targets, at_once)]
        before = buffer.previous
        if before is not None and not config.expected:  # now its next action is known
            taken = values.q_values(step.obs)[np.arange(len(step.action)), step.action]
            targets = td_targets(before.reward, taken, before.terminated, config.gamma)
            lessons.append((before, targets, before.valid & ~before.terminated & ~before.truncated))
        return values.learn(lessons, learning_rate)

    def q_values(self, obs: Any) -> Array:
        """The values of all actions for a batch of observations: (batch, number of actions)."""
        return self.values.q_values(as_batch(self.observation_space, obs)[0])

    def value(self, obs: Any) -> Array:
        """The values of a batch of observations under the ε-greedy policy: (batch,)."""
        return self.values.values(as_batch(self.observation_space, obs)[0], self.values.epsilon)

    def action_probabilities(self, obs: Any, action_masks: Array | None = None) -> Array:
        """Of the ε-greedy policy, for a batch of observations: (batch, number of actions)."""
        batch, _ = as_batch(self.observation_space, obs)
        return self.values.probabilities(batch, self.values.epsilon, action_masks)

    def state_dict(self) -> dict[str, Any]:
        return self.values.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.load_state_dict(state)
