"""Action values in a table: a row for every discrete observation, a column for every action."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlkit.buffers.transition import Transition
from rlkit.errors import RlkitError
from rlkit.spaces import Array, Obs, leaf_spaces


def table_rows(space: spaces.Space[Any]) -> int | None:
    """Counts the observations of a space; returns None unless all of it is Discrete, MultiDiscrete or MultiBinary."""
    parts = leaf_spaces(space)
    if not all(isinstance(part, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) for part in parts):
        return None
    return math.prod(size for part in parts for size in _sizes(part))


class QTable:
    """A table of Q(s, a) in float64, for observations that `table_rows` can count.

    A row also keeps the action mask of its observation when it was last seen. The values of forbidden actions are never
    learned, so they must not be taken for the best ones.
    """

    device = "cpu"
    compute = "table"
    default_learning_rate = 0.1

    def __init__(self, space: spaces.Space[Any], num_actions: int, initial_value: float) -> None:
        parts = leaf_spaces(space)
        self._sizes = tuple(size for part in parts for size in _sizes(part))
        self._starts = [getattr(part, "start", 0) for part in parts]
        shape = (math.prod(self._sizes), num_actions)
        self.model = nn.Module()
        self.values = self._stored("values", torch.full(shape, initial_value, dtype=torch.float64))
        self._allowed = self._stored("allowed", torch.ones(shape, dtype=torch.bool))

    def q_values(self, obs: Obs) -> Array:
        q_values: Array = self.values[self._rows(obs)]
        return q_values

    def allowed(self, obs: Obs) -> Array:
        allowed: Array = self._allowed[self._rows(obs)]
        return allowed

    def observe(self, step: Transition) -> None:
        """Keeps the action masks of a step's observations."""
        if step.action_mask is not None:
            self._allowed[self._rows(step.obs)[step.valid]] = step.action_mask[step.valid]

    def learn(self, obs: Obs, action: Array, targets: Array, learning_rate: float) -> Array:
        """Moves Q(s, a) towards its target, one row after the other; returns the TD errors, (rows,).

        If several environments were in one state and took one action, its value moves once for each of them. Because
        this happens in turn, it never moves past its targets.
        """
        errors = np.zeros(len(action))
        for i, at in enumerate(zip(self._rows(obs), action, strict=True)):
            errors[i] = targets[i] - self.values[at]
            self.values[at] += learning_rate * errors[i]
        return errors

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def _rows(self, obs: Obs) -> Array:
        """Returns the row of each observation, (batch,); raises RlkitError for one that is outside of its space."""
        parts = [(leaf - start).reshape(len(leaf), -1).T for leaf, start in zip(obs, self._starts, strict=True)]
        try:
            rows: Array = np.ravel_multi_index(tuple(np.concatenate(parts)), self._sizes)
        except ValueError as error:
            raise RlkitError(f"an observation is outside of the observation space: {error}") from error
        return rows

    def _stored(self, name: str, tensor: torch.Tensor) -> Array:
        """Registers a tensor to be saved with the model, and returns an array on the same memory."""
        self.model.register_buffer(name, tensor)
        array: Array = tensor.numpy()
        return array


def _sizes(space: spaces.Space[Any]) -> list[int]:
    """Lists the number of values of each component of a discrete observation."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flat]
    return [2] * math.prod(space.shape or ())
