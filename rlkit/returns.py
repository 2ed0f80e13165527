"""Returns and advantages: pure functions on (num_steps, num_envs) arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


def gae(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Bools,
    truncated: Bools,
    gamma: float,
    gae_lambda: float,
) -> Floats:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16); add `values` for the returns.

    All arrays are (num_steps, num_envs). `next_values` holds the value of the observation that each step led to:
    of an episode's own last observation where it was truncated, never of the next episode's first. Where the
    episode terminated, the next value does not count, whatever it is, even if it was truncated as well.
    """
    td_errors = rewards + gamma * next_values * ~terminated - values
    decay = (gamma * gae_lambda) * ~(terminated | truncated)
    advantages = np.empty_like(td_errors)
    following = np.zeros_like(td_errors[0])
    for t in reversed(range(len(td_errors))):
        following = td_errors[t] + decay[t] * following
        advantages[t] = following
    return advantages


def explained_variance(values: Floats, returns: Floats) -> float:
    """1 - Var[returns - values] / Var[returns]: 1 is a perfect critic, 0 one that knows no more than the mean."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if variance > 0 else 0.0


def td_targets(rewards: Floats, next_values: Floats, terminated: Bools, gamma: float | Floats) -> Floats:
    """What one step says a value is: r + γ · next value, and r alone where the episode terminated.

    `next_values` are of the observation that each step led to, however an agent values it. For n-step returns, γ is
    an array: discounts to the power of the steps taken.
    """
    targets: Floats = rewards + gamma * next_values * ~terminated
    return targets


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
