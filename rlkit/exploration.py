"""Exploring by action values: the ε-greedy policy, as probabilities and as draws from them."""

from __future__ import annotations

import numpy as np

from rlkit.spaces import Array


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


def sample(probabilities: Array, rng: np.random.Generator) -> Array:
    """One action per row of (batch, actions) probabilities."""
    cumulative = probabilities.cumsum(1)
    drawn = rng.random((len(probabilities), 1)) * cumulative[:, -1:]  # rounding may leave the sum below one
    actions: Array = (cumulative > drawn).argmax(1)
    return actions
