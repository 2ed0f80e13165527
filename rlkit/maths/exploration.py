"""Exploration by action values: the schedule of ε, and the ε-greedy policy as probabilities and as draws."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from rlkit.spaces import Array
from rlkit.system.ranks import RowGenerator

FEW = 8
"""Number of action values up to which a loop over Python's floats is faster than calls of NumPy."""


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
        allowed_values = np.where(allowed, q_values, -np.inf)
        random, best = _uniform(allowed), allowed_values == allowed_values.max(1, keepdims=True)
    return epsilon * random + (1 - epsilon) * _uniform(best)


def _uniform(chosen: Array) -> Array:
    """Returns the uniform distribution over each row's chosen actions."""
    probabilities: Array = chosen / chosen.sum(1, keepdims=True)
    return probabilities


def sample(probabilities: Array, rng: RowGenerator) -> Array:
    """Draws one action per row of (batch, actions) probabilities."""
    cumulative = probabilities.cumsum(1)
    drawn = rng.random((len(probabilities), 1)) * cumulative[:, -1:]  # the sum may be below one, by rounding
    actions: Array = (cumulative > drawn).argmax(1)
    return actions


def sample_epsilon_greedy(q_values: Array, epsilon: float, action_mask: Array | None, rng: RowGenerator) -> Array:
    """Draws ε-greedy actions, exactly as `sample(epsilon_greedy(…))` does.

    It takes a third of the time for one environment with few actions.
    """
    if action_mask is not None or q_values.size > FEW:
        return sample(epsilon_greedy(q_values, epsilon, action_mask), rng)
    drawn = rng.random((len(q_values),)).tolist()
    return np.array([_drawn(values, epsilon, u) for values, u in zip(q_values.tolist(), drawn, strict=True)])


def _drawn(values: list[float], epsilon: float, u: float) -> int:
    """Returns the ε-greedy action that a uniform number `u` falls on: `epsilon_greedy` and `sample` for one row."""
    best = max(values)
    random, greedy = epsilon * (1 / len(values)), (1 - epsilon) * (1 / values.count(best))
    cumulative = list(accumulate([random + greedy if value == best else random for value in values]))
    action = bisect_right(cumulative, u * cumulative[-1])  # the first one whose cumulative probability is larger
    return action if action < len(values) else 0
