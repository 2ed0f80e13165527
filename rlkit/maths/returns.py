"""Returns and targets of values: pure functions on arrays. Advantages are in `rlkit/advantages.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkit.spaces import Array, masked

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def discounted_returns(rewards: Floats, gamma: float) -> Floats:
    """Sums the discounted rewards to go, R_t = r_t + γ R_{t+1}, of whole episodes.

    Each column of the (num_steps, num_episodes) array is an episode, padded with zeros after its end.
    """
    returns = rewards.copy()
    for t in reversed(range(len(returns) - 1)):
        returns[t] += gamma * returns[t + 1]
    return returns


def explained_variance(values: Floats, returns: Floats) -> float:
    """Returns 1 - Var[returns - values] / Var[returns]: 1 for a perfect critic, 0 for one that knows just the mean."""
    errors = returns - values
    errors = errors - errors.sum() / len(errors)
    deviations = returns - returns.sum() / len(returns)
    squares = deviations @ deviations
    return float(1 - (errors @ errors) / squares) if squares > 0 else 0.0


def td_targets(rewards: Floats, next_values: Floats, terminated: Bools, gamma: float | Floats) -> Floats:
    """Computes temporal-difference targets: r + γ · next value, or r alone if the episode terminated.

    `next_values` are an agent's values of the observation that each step led to. For n-step returns, γ is an array with
    one discount per row, γ to the power of the row's number of steps.
    """
    targets: Floats = rewards + gamma * next_values * ~terminated
    return targets


def project_distribution(
    rewards: Floats, next_probabilities: Floats, terminated: Bools, gamma: float | Floats, atoms: Floats
) -> Floats:
    """Computes `td_targets` for distributions: each atom's probability after the step, (rows, num_atoms).

    `atoms`, (num_atoms,), are evenly spaced returns, and `next_probabilities`, (rows, num_atoms), are their
    probabilities as next values. Each atom moves to r + γ · atom. If that is between two atoms, its probability is
    split between them so that the mean stays; if it is beyond the first or the last atom, that one gets all of it. This
    is algorithm 1 of Bellemare et al. (2017).
    """
    rows, num_atoms = next_probabilities.shape
    discounts = np.where(terminated, 0.0, gamma)
    moved = rewards[:, None] + discounts[:, None] * atoms
    positions = np.clip((moved - atoms[0]) / (atoms[1] - atoms[0]), 0, num_atoms - 1)
    lower = positions.astype(np.intp)
    upper_weight = positions - lower  # zero if the position is exactly an atom's
    firsts = np.arange(0, rows * num_atoms, num_atoms)[:, None]
    projected = np.zeros(rows * num_atoms + 1)  # one more, as the last atom adds its zero weight to an atom above it
    for index, weight in ((firsts + lower, 1 - upper_weight), (firsts + lower + 1, upper_weight)):
        projected += np.bincount(index.ravel(), (next_probabilities * weight).ravel(), len(projected))
    return projected[:-1].reshape(rows, num_atoms)


def n_step_returns(rewards: Floats, ended: Bools, gammas: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Sums the discounted rewards of each row up to its first end; returns the sums and their numbers of steps.

    `rewards` and `ended` are (rows, n): n consecutive steps of one environment in each row. A row without an end counts
    whole. `gammas` are the powers of γ, from γ⁰ on. Both results are (rows,).
    """
    ended = ended.copy()
    ended[:, -1] = True
    lengths = ended.argmax(1) + 1
    n = rewards.shape[1]
    counted = np.arange(n) < lengths[:, None]
    return (rewards * gammas[:n] * counted).sum(1), lengths


def next_values(choosing: Array, valuing: Array, action_mask: Array | None) -> Array:
    """Looks up the values of the actions that are best by `choosing` among those allowed: (rows,).

    Both `choosing` and `valuing` are action values, (rows, actions), or `valuing` distributions of them, (rows,
    actions, atoms): then the result is distributions too, (rows, atoms).
    """
    best = masked(choosing, action_mask).argmax(1)
    values: Array = valuing[np.arange(len(best)), best]
    return values


def episode_baseline(kind: str, rewards_to_go: Array) -> Array:
    """The `mean` or `time_step` baseline of each step of each episode: (longest episode, episodes).

    `rewards_to_go` has that shape, and zeros after an episode's end. Each episode is compared with the mean of the
    others: its own return depends on its actions, and would shrink the expected gradient by 1 - 1/N.
    """
    table = rewards_to_go if kind == "time_step" else np.broadcast_to(rewards_to_go[0], rewards_to_go.shape)
    others: Array = (table.sum(1, keepdims=True) - table) / (table.shape[1] - 1)
    return others
