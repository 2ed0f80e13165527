"""Exploring by action values: how ε falls, and the ε-greedy policy as probabilities and as draws from them."""

from __future__ import annotations

import numpy as np

from rlkit.spaces import Array
from rlkit.system.ranks import RowGenerator

FEW = 8
"""Action values up to which Python's own numbers take less time than NumPy's calls."""


def epsilon_greedy(q_values: Array, epsilon: float, action_mask: Array | None = None) -> Array:
    """The probability of each action: ε shared evenly by all, the rest by those of the highest value.

    `q_values`, the boolean `action_mask` (True: allowed) and the result are (batch, actions). A forbidden action has
    probability 0; a mask that allows none counts as no mask.
    """
    if action_mask is None:
        random: Array | float = 1 / q_values.shape[1]
        best = q_values == q_values.max(1, keepdims=True)
    else:
        allowed = action_mask | ~action_mask.any(1, keepdims=True)
        considered = np.where(allowed, q_values, -np.inf)
        random, best = _shared(allowed), considered == considered.max(1, keepdims=True)
    return epsilon * random + (1 - epsilon) * _shared(best)


def _shared(chosen: Array) -> Array:
    """A probability of one, shared evenly by each row's chosen actions."""
    probabilities: Array = chosen / chosen.sum(1, keepdims=True)
    return probabilities


def sample(probabilities: Array, rng: RowGenerator) -> Array:
    """One action per row of (batch, actions) probabilities."""
    cumulative = probabilities.cumsum(1)
    drawn = rng.random((len(probabilities), 1)) * cumulative[:, -1:]  # rounding may leave the sum below one
    actions: Array = (cumulative > drawn).argmax(1)
    return actions


def sample_epsilon_greedy(q_values: Array, epsilon: float, action_mask: Array | None, rng: RowGenerator) -> Array:
    """`sample(epsilon_greedy(…))`: the same draws; in a third of the time for one environment and few actions."""
    if action_mask is not None or q_values.size > FEW:
        return sample(epsilon_greedy(q_values, epsilon, action_mask), rng)
    drawn = rng.random((len(q_values),)).tolist()
    return np.array([_drawn(values, epsilon, u) for values, u in zip(q_values.tolist(), drawn, strict=True)])


def _drawn(values: list[float], epsilon: float, u: float) -> int:
    """The action on which a uniform number falls: `epsilon_greedy` and `sample` for one row."""
    best = max(values)
    random, greedy = epsilon * (1 / len(values)), (1 - epsilon) * (1 / values.count(best))
    cumulative, total = [], 0.0
    for value in values:
        total += random + (greedy if value == best else 0.0)
        cumulative.append(total)
    return next((action for action, reached in enumerate(cumulative) if reached > u * total), 0)
