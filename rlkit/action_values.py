"""Action values for agents that learn from every step as it comes, kept in a table or a network; and acting by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from rlkit.buffers.transition import Transition
from rlkit.engine.descent import Optimization
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import make_model, make_q_engine, make_q_network
from rlkit.engine.native.q import dqn_gradient
from rlkit.engine.q import QLoss, TDBatch
from rlkit.engine.tabular import QTable, table_rows
from rlkit.errors import RlkitError
from rlkit.maths.exploration import epsilon_greedy, sample
from rlkit.setting import Setting, check_compute
from rlkit.spaces import Array, Obs

MAX_TABLE_BYTES = 10**9
"""Largest size of a table; with more observations than that, a network has to generalise between them."""

Lesson = tuple[Transition, Array, Array]
"""A vector step to learn from, the targets of its rows, (num_envs,), and a boolean mask of the rows to learn."""


class Approximator(Protocol):
    """A representation of action values: a `QTable` or an `OnlineQNetwork`."""

    model: nn.Module
    """The tensors that are saved."""
    device: str
    """Device that it computes on."""
    compute: str
    """Name of its engine, as in `TrainConfig.compute`."""
    default_learning_rate: float
    """Learning rate that suits it, if the config gives none."""

    def q_values(self, obs: Obs) -> Array:
        """Computes the values of all actions, (batch, actions); the next call may overwrite them."""

    def allowed(self, obs: Obs) -> Array | None:
        """Returns the actions that the observations allow, a boolean (batch, actions), or None if it keeps no masks."""

    def observe(self, step: Transition) -> None:
        """Records action masks and statistics of a step's observations, before anything is learned from the step."""

    def learn(self, obs: Obs, action: Array, targets: Array, learning_rate: float) -> Array:
        """Moves Q(obs, action) of each row towards its target; returns the TD errors before that, (rows,)."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that is not in `model`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""


class OnlineQNetwork:
    """A Q-network that takes one step of Adam on each vector step: semi-gradient learning."""

    default_learning_rate = 1e-3

    def __init__(self, setting: Setting, num_actions: int, seed: np.random.SeedSequence) -> None:
        self.network, self.device = make_q_network(setting, num_actions, seed)
        optimization = Optimization(max_grad_norm=None, eps=1e-8)
        self._engine, self.compute = make_q_engine(self.network, QLoss(dqn_loss, dqn_gradient), optimization, setting)
        self._ranks = setting.ranks
        self.model: nn.Module = make_model(network=self.network)

    def q_values(self, obs: Obs) -> Array:
        return self._engine.q_values(self.network.features(obs))

    def allowed(self, obs: Obs) -> None:
        return None

    def observe(self, step: Transition) -> None:
        """Adds the observations to the running statistics that normalise them."""
        self.network.features.update(step.obs, self._ranks, step.valid)

    def learn(self, obs: Obs, action: Array, targets: Array, learning_rate: float) -> Array:
        batch = TDBatch(self.network.features(obs), action, targets.astype(np.float32))
        return self._engine.step(batch, "mse", learning_rate)[0]

    def state_dict(self) -> dict[str, Any]:
        return self._engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._engine.load_state_dict(state)


def make_approximator(
    setting: Setting, num_actions: int, initial_value: float, seed: np.random.SeedSequence
) -> Approximator:
    """Makes a table if the observations are discrete and not too many, else a network.

    A network of the user's own is never replaced by a table. `initial_value` fills the table. Raises RlkitError if the
    setting's `device` or `compute` cannot be used.
    """
    space, device, compute = setting.observation_space, setting.device, setting.compute
    rows = None if setting.network.module is not None else table_rows(space)
    if rows is None or 8 * rows * num_actions > MAX_TABLE_BYTES:
        return OnlineQNetwork(setting, num_actions, seed)
    check_compute(compute)
    if device == "cuda" or compute != "auto":
        asked = "device=cuda" if device == "cuda" else f"compute={compute}"
        raise RlkitError(
            f"{asked} cannot be: for {space}, values are in a table, which no engine computes; auto would work"
        )
    return QTable(space, num_actions, initial_value)


class ActionValues:
    """Acts ε-greedily by an approximator's action values, and teaches the approximator; ε is saved with its model."""

    def __init__(self, approximator: Approximator, epsilon: float, seed: np.random.SeedSequence) -> None:
        self.approximator, self.model = approximator, approximator.model
        stored = torch.tensor(epsilon, dtype=torch.float64)
        self.model.register_buffer("epsilon", stored)
        self._epsilon: Array = stored.numpy()
        self._rng = np.random.default_rng(seed)

    @property
    def epsilon(self) -> float:
        """The probability of a random action."""
        return float(self._epsilon)

    @epsilon.setter
    def epsilon(self, epsilon: float) -> None:
        self._epsilon[()] = epsilon

    def act(self, obs: Obs, action_mask: Array | None, explore: bool) -> Array:
        """Chooses an action for each observation: ε-greedily, or without `explore` the best, the first one of equals.

        Raises RlkitError for an action mask of the wrong shape.
        """
        probabilities = self.probabilities(obs, self.epsilon if explore else 0.0, action_mask)
        return sample(probabilities, self._rng) if explore else probabilities.argmax(1)

    def q_values(self, obs: Obs) -> Array:
        """Computes the values of all actions: (batch, actions)."""
        return self.approximator.q_values(obs).copy()

    def probabilities(self, obs: Obs, epsilon: float, action_mask: Array | None = None) -> Array:
        """Computes each action's probability under the ε-greedy policy: (batch, actions)."""
        q_values = self.approximator.q_values(obs)
        if action_mask is None:
            action_mask = self.approximator.allowed(obs)
        elif action_mask.shape != q_values.shape:
            raise RlkitError(f"an action mask of shape {action_mask.shape} does not fit: expected {q_values.shape}")
        return epsilon_greedy(q_values, epsilon, action_mask)

    def values(self, obs: Obs, epsilon: float, action_mask: Array | None = None) -> Array:
        """Computes the observations' values under the ε-greedy policy, (batch,); with ε = 0 their best action's."""
        values: Array = (self.probabilities(obs, epsilon, action_mask) * self.approximator.q_values(obs)).sum(1)
        return values

    def next_values(self, step: Transition, epsilon: float) -> Array:
        """Computes the values of the observations that a step led to; at an episode's end, of its own last one."""
        reached = step.reached()
        mask = self.approximator.allowed(reached)
        if mask is None and step.next_action_mask is not None:
            # At an episode's end that mask is the next episode's. Nobody knows what the last observation allows, so
            # every action counts as allowed there.
            mask = step.next_action_mask | (step.terminated | step.truncated)[:, None]
        return self.values(reached, epsilon, mask)

    def learn(self, lessons: Sequence[Lesson], learning_rate: float) -> dict[str, float]:
        """Moves the values towards the targets of all lessons; returns metrics."""
        parts = [(*step.obs, step.action, targets) for step, targets, _ in lessons]
        chosen = np.concatenate([rows for *_, rows in lessons])
        *obs, action, targets = (np.concatenate(part)[chosen] for part in zip(*parts, strict=True))
        metrics = {"train/epsilon": self.epsilon, "train/learning_rate": learning_rate}
        if len(action) > 0:
            errors = self.approximator.learn(tuple(obs), action, targets, learning_rate)
            metrics["train/td_error"] = float(np.abs(errors).mean())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns the model's tensors as arrays, and the states of the approximator and of the generator."""
        return {
            "model": {name: tensor.cpu().numpy().copy() for name, tensor in self.model.state_dict().items()},
            "approximator": self.approximator.state_dict(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.model.load_state_dict({name: torch.as_tensor(array) for name, array in state["model"].items()})
        self.approximator.load_state_dict(state["approximator"])
        self._rng.bit_generator.state = state["rng"]
