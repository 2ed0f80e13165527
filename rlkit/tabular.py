"""Action values in a table, one row per discrete observation: acting by it, and moving it towards targets."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlkit.errors import RlkitError
from rlkit.exploration import epsilon_greedy, sample
from rlkit.spaces import Array, Obs, leaf_spaces

MOST_BYTES = 10**9
"""Of a table."""


class QTable:
    """Q(s, a) for Discrete, MultiDiscrete and MultiBinary observations, and Dict and Tuple of them.

    A row also remembers which actions its observation allowed when it was last learned from, because the values of
    forbidden ones are never learned and must not be taken for the best. Values are float64.

    Raises RlkitError for spaces that no table can hold, naming agents that do without one, and for `device=cuda` and
    `compute=torch`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        initial_value: float,
        seed: int,
        device: str,
        compute: str,
        agent: str,
    ) -> None:
        if device == "cuda" or compute == "torch":
            asked = "device=cuda" if device == "cuda" else "compute=torch"
            raise RlkitError(f"agent={agent} keeps a table in NumPy on the CPU, so {asked} cannot be; auto would work")
        if not isinstance(action_space, spaces.Discrete):
            raise RlkitError(f"agent={agent} needs Discrete actions, not {action_space}; agent=ppo can handle them")
        parts = [_counts(leaf, agent) for leaf in leaf_spaces(observation_space)]
        self._sizes, self._starts = tuple(n for sizes, _ in parts for n in sizes), [start for _, start in parts]
        observations, actions = math.prod(self._sizes), int(action_space.n)
        if (needed := 8 * observations * actions) > MOST_BYTES:
            table = f"a table of {Decimal(observations):.3g} observations x {actions} actions"
            raise RlkitError(
                f"agent={agent} keeps {table}, which would take {Decimal(needed):.3g} bytes; it may be "
                f"{MOST_BYTES:,} at most, and agent=ppo does without one"
            )
        self.first_action = int(action_space.start)
        self.model = nn.Module()
        self.values = self._stored("values", torch.full((observations, actions), initial_value, dtype=torch.float64))
        self._allowed = self._stored("allowed", torch.ones((observations, actions), dtype=torch.bool))
        self._epsilon = self._stored("epsilon", torch.ones((), dtype=torch.float64))
        self._rng = np.random.default_rng(seed)

    @property
    def epsilon(self) -> float:
        """The probability of a random action; saved with the model, so that it explores on as it did."""
        return float(self._epsilon)

    @epsilon.setter
    def epsilon(self, epsilon: float) -> None:
        self._epsilon[()] = epsilon

    def rows(self, obs: Obs) -> Array:
        """Which row of the table each observation has: (batch,). Raises RlkitError for one outside its space."""
        parts = [(leaf - start).reshape(len(leaf), -1).T for leaf, start in zip(obs, self._starts, strict=True)]
        try:
            rows: Array = np.ravel_multi_index(tuple(np.concatenate(parts)), self._sizes)
        except ValueError as error:
            raise RlkitError(f"an observation is outside of the observation space: {error}") from error
        return rows

    def q_values(self, obs: Obs) -> Array:
        """Copies of the observations' rows: (batch, actions)."""
        q_values: Array = self.values[self.rows(obs)]
        return q_values

    def act(self, obs: Obs, action_mask: Array | None, explore: bool) -> Array:
        """One action per observation: by the ε-greedy policy, or the best without `explore`, of equals the first."""
        probabilities = self.probabilities(obs, self.epsilon if explore else 0.0, action_mask)
        return sample(probabilities, self._rng) if explore else probabilities.argmax(1)

    def probabilities(self, obs: Obs, epsilon: float, action_mask: Array | None = None) -> Array:
        """Of each action under the ε-greedy policy, (batch, actions); by the remembered mask where none is given.

        Raises RlkitError for an action mask that does not fit.
        """
        rows = self.rows(obs)
        if action_mask is None:
            action_mask = self._allowed[rows]
        elif action_mask.shape != (expected := (len(rows), self.values.shape[1])):
            raise RlkitError(f"an action mask of shape {action_mask.shape} does not fit: expected {expected}")
        return epsilon_greedy(self.values[rows], epsilon, action_mask)

    def expected_values(self, obs: Obs, epsilon: float) -> Array:
        """The values of observations under the ε-greedy policy, (batch,): with an ε of 0, of their best actions."""
        rows = self.rows(obs)
        q_values = self.values[rows]
        expected: Array = (epsilon_greedy(q_values, epsilon, self._allowed[rows]) * q_values).sum(1)
        return expected

    def remember(self, obs: Obs, action_mask: Array | None, valid: Array) -> None:
        """Which actions the observations allow, where `valid`; None: all."""
        if action_mask is not None:
            self._allowed[self.rows(obs)[valid]] = action_mask[valid]

    def learn(self, obs: Obs, actions: Array, targets: Array, learning_rate: float, chosen: Array) -> list[float]:
        """Moves Q(s, a) towards its target in the `chosen` rows of the batch; returns their TD errors.

        One after the other, so that a pair that several environments were in moves once for each and never past
        its targets.
        """
        errors = []
        rows = self.rows(obs)
        for i in np.flatnonzero(chosen):
            at = rows[i], actions[i]
            error = float(targets[i] - self.values[at])
            self.values[at] += learning_rate * error
            errors.append(error)
        return errors

    def state_dict(self) -> dict[str, Any]:
        """The table and the state of the generator."""
        model = {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}
        return {"model": model, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.model.load_state_dict({name: torch.as_tensor(array) for name, array in state["model"].items()})
        self._rng.bit_generator.state = state["rng"]

    def _stored(self, name: str, tensor: torch.Tensor) -> Array:
        """A tensor that is saved with the model, as an array on the same memory."""
        self.model.register_buffer(name, tensor)
        array: Array = tensor.numpy()
        return array


def _counts(space: spaces.Space[Any], agent: str) -> tuple[list[int], Any]:
    """How many values each number of a discrete observation can take, and where they start."""
    match space:
        case spaces.Discrete():
            return [int(space.n)], space.start
        case spaces.MultiDiscrete():
            return space.nvec.reshape(-1).tolist(), space.start
        case spaces.MultiBinary():
            return [2] * math.prod(space.shape), 0
    raise RlkitError(
        f"agent={agent} keeps a table, so it needs Discrete, MultiDiscrete or MultiBinary observations, or Dict and "
        f"Tuple of them, not {' '.join(str(space).split())}; agent=ppo can handle them"
    )
