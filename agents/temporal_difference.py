"""SARSA, expected SARSA and Q-learning: action values that are learned from every step, towards one of three targets.

The target of Q(s, a) is r + γ times the value of the next state: the value of the action that is really taken next
(SARSA, Rummery & Niranjan 1994), the mean over all actions as likely as the policy takes them (expected SARSA, van
Seijen et al. 2009), or the value of the best action (Q-learning, Watkins 1989). `rlkit.action_values` keeps the values,
in a table for discrete observations, else by a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.agents.base import Agent, discrete_actions
from rlkit.buffers.latest import LatestSteps
from rlkit.collector import Step
from rlkit.errors import check_choice, check_fields
from rlkit.field_groups import EpsilonConfig
from rlkit.maths.returns import td_targets
from rlkit.maths.schedules import ANNEALINGS, annealed
from rlkit.setting import AgentConfig, Setting
from rlkit.spaces import Array, Obs, as_batch, shifted

if TYPE_CHECKING:
    from rlkit.action_values import Lesson

NAMES = {"sampled": "sarsa", "expected": "expected_sarsa", "greedy": "q_learning"}
"""The name that the algorithm has in the literature, by its target."""


@dataclass
class TemporalDifferenceConfig(AgentConfig):
    """The hyperparameters of SARSA, expected SARSA and Q-learning; for Discrete actions."""

    renamed: ClassVar[Mapping[str, str]] = {
        "epsilon_start": "epsilon.start",
        "epsilon_end": "epsilon.end",
        "epsilon_schedule": "epsilon.schedule",
        "exploration_fraction": "epsilon.fraction",
    }
    removed: ClassVar[Mapping[str, str]] = {"expected": "agent.expected=true is now agent.target=expected"}

    target: str = "sampled"
    """The value of the next state that is learned towards. `sampled`: that of the action taken next (SARSA);
    `expected`: the mean over all next actions, as likely as they are (expected SARSA); `greedy`: that of the best
    action, whatever is done next (Q-learning)."""
    learning_rate: float | None = None
    """In a table: how far each step moves a value towards its target; of a network: Adam's step size. null: 0.1 and
    0.001."""
    learning_rate_end: float | None = None
    """The learning rate at the end of the run; null: as at the start."""
    learning_rate_schedule: str = "linear"
    """`linear`: it falls by equal steps; `exponential`: by equal factors."""
    gamma: float = 0.99
    """Discount factor."""
    epsilon: EpsilonConfig = field(default_factory=EpsilonConfig)
    initial_value: float = 0.0
    """The value of every entry of a new table; an optimistic one makes the agent try everything."""

    @property
    def name(self) -> str:
        """The algorithm's own name."""
        return NAMES.get(self.target, "sarsa")

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """SARSA's saved agents once had a field `expected` in place of `target`."""
        upgraded = super().upgraded(fields)
        if upgraded.pop("expected", False):
            upgraded["target"] = "expected"
        return upgraded

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("agent.target", self.target, NAMES)
        check_choice("agent.learning_rate_schedule", self.learning_rate_schedule, ANNEALINGS)
        rates = ("learning_rate", "learning_rate_end")
        check_fields(self, "agent", positive=rates, shares=(*rates, "gamma"))
        self.epsilon.validate("agent.epsilon")


class TemporalDifference(Agent[LatestSteps]):
    """Explores ε-greedily, and learns from every step: at once, or with a sampled target once the next action is known.

    At an episode's end there is no next action: the value of a truncated episode's last observation is the policy's
    mean.
    """

    action_spaces = (spaces.Discrete,)
    config: TemporalDifferenceConfig

    def __init__(self, config: TemporalDifferenceConfig, setting: Setting) -> None:
        # Imported here so that reading the config, as the command line does for --help, does not import torch.
        from rlkit.action_values import ActionValues, make_approximator

        super().__init__(config, setting)
        self._actions = discrete_actions(config.name, setting.action_space)
        self.steps_per_update = 1
        init_seed, act_seed = np.random.SeedSequence(setting.seed).spawn(2)
        approximator = make_approximator(setting, int(self._actions.n), config.initial_value, init_seed)
        self.device, self.compute = approximator.device, approximator.compute
        self.values = ActionValues(approximator, config.epsilon.at(0.0), act_seed)
        self.model = self.values.model

    def make_buffer(self, num_envs: int) -> LatestSteps:
        return LatestSteps()

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        action = self.values.act(obs, action_mask, explore)
        return Step(action, shifted(self._actions, action))

    def update(self, buffer: LatestSteps, progress: float) -> dict[str, float]:
        config, values = self.config, self.values
        start = values.approximator.default_learning_rate if config.learning_rate is None else config.learning_rate
        end = start if config.learning_rate_end is None else config.learning_rate_end
        learning_rate = annealed(config.learning_rate_schedule, start, end, progress)
        values.epsilon = config.epsilon.at(progress)

        values.approximator.observe(buffer.latest)
        lessons = self._with_sampled_targets(buffer) if config.target == "sampled" else self._with_targets(buffer)
        return values.learn(lessons, learning_rate)

    def _with_targets(self, buffer: LatestSteps) -> list[Lesson]:
        """The latest step, towards the expected or the greatest value of the state that it led to."""
        step = buffer.latest
        next_values = self.values.next_values(step, self.values.epsilon if self.config.target == "expected" else 0.0)
        return [(step, td_targets(step.reward, next_values, step.terminated, self.config.gamma), step.valid)]

    def _with_sampled_targets(self, buffer: LatestSteps) -> list[Lesson]:
        """The step before the latest, whose next action is known now, and the ends of episodes, which have none."""
        step, before = buffer.latest, buffer.previous
        expected = self.values.next_values(step, self.values.epsilon)
        targets = td_targets(step.reward, expected, step.terminated, self.config.gamma)
        lessons = [(step, targets, step.valid & (step.terminated | step.truncated))]
        if before is not None:
            taken = self.values.q_values(step.obs)[np.arange(len(step.action)), step.action]
            targets = td_targets(before.reward, taken, before.terminated, self.config.gamma)
            lessons.append((before, targets, before.valid & ~before.terminated & ~before.truncated))
        return lessons

    def q_values(self, obs: Any) -> Array:
        """The values of all actions for a batch of observations: (batch, number of actions)."""
        return self.values.q_values(as_batch(self.observation_space, obs)[0])

    def value(self, obs: Any) -> Array:
        """The values of a batch of observations, (batch,): of the best action, or, on-policy, of the ε-greedy mean."""
        epsilon = 0.0 if self.config.target == "greedy" else self.values.epsilon
        return self.values.values(as_batch(self.observation_space, obs)[0], epsilon)

    def action_probabilities(self, obs: Any, action_masks: Array | None = None) -> Array:
        """The probabilities of the ε-greedy policy for a batch of observations: (batch, number of actions)."""
        batch, _ = as_batch(self.observation_space, obs)
        return self.values.probabilities(batch, self.values.epsilon, action_masks)

    def state_dict(self) -> dict[str, Any]:
        return self.values.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.load_state_dict(state)
