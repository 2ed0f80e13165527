"""Returns and their targets: pure functions on arrays; advantages are in `rlkit/advantages.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkit.spaces import Array, masked

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def discounted_returns(rewards: Floats, gamma: float) -> Floats:
    """The rewards to go, R_t = r_t + γ R_{t+1}, down the columns of (num_steps, num_episodes) whole episodes.

    Zeros follow an episode's end.
    """
    returns = rewards.copy()
    for t in reversed(range(len(returns) - 1)):
        returns[t] += gamma * returns[t + 1]
    return returns


def explained_variance(values: Floats, returns: Floats) -> float:
    """1 - Var[returns - values] / Var[returns]: 1 is a perfect critic, 0 one that knows no more than the mean."""
    errors = returns - values
    errors -= errors.mean()
    deviations = returns - returns.mean()
    squares = deviations @ deviations
    return float(1 - (errors @ errors) / squares) if squares > 0 else 0.0


def td_targets(rewards: Floats, next_values: Floats, terminated: Bools, gamma: float | Floats) -> Floats:
    """What one step says a value is: r + γ · next value, and r alone where the episode terminated.

    `next_values` are of the observation that each step led to, however an agent values it. For n-step returns, γ is
    an array: discounts to the power of the steps taken.
    """
    targets: Floats = rewards + gamma * next_values * ~terminated
    return targets


def project_distribution(
    rewards: Floats, next_probabilities: Floats, terminated: Bools, gamma: float | Floats, atoms: Floats
) -> Floats:
    """`td_targets` of whole distributions: how probable each of `atoms` is after the step, (rows, num_atoms).

    `next_probabilities`, (rows, num_atoms), are of the atoms as next values; `atoms`, (num_atoms,), are evenly spaced.
    What r + γ · atom falls between two of them is shared out so that the mean stays, and what falls beyond the first
    or the last goes to that one: algorithm 1 of Bellemare et al. (2017).
    """
    rows, num_atoms = next_probabilities.shape
    discounts = np.where(terminated, 0.0, gamma)
    moved = rewards[:, None] + discounts[:, None] * atoms
    places = np.clip((moved - atoms[0]) / (atoms[1] - atoms[0]), 0, num_atoms - 1)
    lower = places.astype(np.intp)
    share = places - lower  # of the atom above: nothing where the place is an atom's own
    firsts = np.arange(0, rows * num_atoms, num_atoms)[:, None]
    projected = np.zeros(rows * num_atoms + 1)  # one more, since the last atom too adds nothing to the one above
    for index, part in ((firsts + lower, 1 - share), (firsts + lower + 1, share)):
        projected += np.bincount(index.ravel(), (next_probabilities * part).ravel(), len(projected))
    return projected[:-1].reshape(rows, num_atoms)


def n_step_returns(rewards: Floats, ended: Bools, gammas: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The discounted sums of rewards up to each row's first end, and how many steps they are of: (rows,) both.

    `rewards` and `ended` are (rows, n), n steps along one environment's path, `gammas` the powers of γ from 0 on.
    Where none of the n steps ends anything, all of them count.
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
