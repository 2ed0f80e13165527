"""Action values for agents that learn from each step as it comes: in a table or by a network, and acting by them."""

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
from rlkit.setting import Setting
from rlkit.spaces import Array, Obs

MOST_BYTES = 10**9
"""Of a table: where there are more observations, a network has to generalise between them."""

Lesson = tuple[Transition, Array, Array]
"""A vector step, the targets of its pairs of observation and action, and which of its rows to learn."""


class Approximator(Protocol):
    """Where action values are kept: a `QTable` or an `OnlineQNetwork`."""

    model: nn.Module
    device: str
    compute: str
    default_learning_rate: float

    def q_values(self, obs: Obs) -> Array:
        """Of all actions: (batch, actions). May be overwritten by the next call."""

    def allowed(self, obs: Obs) -> Array | None:
        """Which actions the observations allow, (batch, actions), if it remembers that."""

    def observe(self, step: Transition) -> None:
        """Takes in what there is to know about the step's observations before anything is learned from it."""

    def learn(self, obs: Obs, action: Array, targets: Array, learning_rate: float) -> Array:
        """Moves the values of these pairs towards their targets; returns the TD errors, (rows,), as they were."""

    def state_dict(self) -> dict[str, Any]:
        """Its state beside the model."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class OnlineQNetwork:
    """A Q-network that takes one gradient step, by Adam, on the pairs of each vector step: semi-gradient learning."""

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
        """Adds the observations to the statistics that normalise them."""
        self.network.features.update(tuple(leaf[step.valid] for leaf in step.obs), self._ranks)

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
    """A table, for discrete observations that are not too many, else a network; a network too if it is the user's own.

    `initial_value` is the table's. Raises RlkitError where the setting's `device` or `compute` cannot be.
    """
    space, device, compute = setting.observation_space, setting.device, setting.compute
    rows = None if setting.network.module is not None else table_rows(space)
    if rows is None or 8 * rows * num_actions > MOST_BYTES:
        return OnlineQNetwork(setting, num_actions, seed)
    if device == "cuda" or compute not in ("auto", "numpy"):
        asked = "device=cuda" if device == "cuda" else f"compute={compute}"
        raise RlkitError(f"{asked} cannot be: for {space}, values are in a table of NumPy's; auto would work")
    return QTable(space, num_actions, initial_value)


class ActionValues:
    """Acting ε-greedily by an approximator's values, and teaching it; ε is saved with its model."""

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
        """One action per observation: by the ε-greedy policy, or the best without `explore`, of equals the first.

        Raises RlkitError for an action mask that does not fit.
        """
        probabilities = self.probabilities(obs, self.epsilon if explore else 0.0, action_mask)
        return sample(probabilities, self._rng) if explore else probabilities.argmax(1)

    def q_values(self, obs: Obs) -> Array:
        """Of all actions: (batch, actions)."""
        return self.approximator.q_values(obs).copy()

    def probabilities(self, obs: Obs, epsilon: float, action_mask: Array | None = None) -> Array:
        """Of each action under the ε-greedy policy: (batch, actions)."""
        q_values = self.approximator.q_values(obs)
        if action_mask is None:
            action_mask = self.approximator.allowed(obs)
        elif action_mask.shape != q_values.shape:
            raise RlkitError(f"an action mask of shape {action_mask.shape} does not fit: expected {q_values.shape}")
        return epsilon_greedy(q_values, epsilon, action_mask)

    def values(self, obs: Obs, epsilon: float, action_mask: Array | None = None) -> Array:
        """Of observations under the ε-greedy policy, (batch,): with an ε of 0, of their best actions."""
        values: Array = (self.probabilities(obs, epsilon, action_mask) * self.approximator.q_values(obs)).sum(1)
        return values

    def next_values(self, step: Transition, epsilon: float) -> Array:
        """The same of what the step led to: an episode's own last observation where it ended."""
        reached = step.reached()
        mask = self.approximator.allowed(reached)
        if mask is None and step.next_action_mask is not None:
            # That mask is of the next episode where one ended: nobody knows what the last observation allows.
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
        """The model, the rest of the approximator's state, and the generator's."""
        return {
            "model": {name: tensor.cpu().numpy().copy() for name, tensor in self.model.state_dict().items()},
            "approximator": self.approximator.state_dict(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.model.load_state_dict({name: torch.as_tensor(array) for name, array in state["model"].items()})
        self.approximator.load_state_dict(state["approximator"])
        self._rng.bit_generator.state = state["rng"]
