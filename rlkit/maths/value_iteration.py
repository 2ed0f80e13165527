"""Value iteration, which computes exact action values where the transition probabilities are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import RlkitError, check_range

TransitionTable = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""Transition table whose `table[state][action]` lists (probability, next state, reward, terminated).

`env.unwrapped.P` of FrozenLake, Taxi, CliffWalking and the maze is one. States and actions count from 0, and all states
have the same actions.
"""


def value_iteration(
    table: TransitionTable,
    gamma: float,
    *,
    epsilon: float = 0.0,
    tolerance: float = 1e-10,
    max_sweeps: int = 100_000,
) -> NDArray[np.float64]:
    """Computes the action values Q, (states, actions), of the best policy, whose state values are `Q.max(1)`.

    With `epsilon`, it is the best of the policies that take a uniformly random action with that probability, which
    SARSA learns. The sweeps end when no value changes by more than `tolerance`. Raises RlkitError if that does not
    happen within `max_sweeps`, as without discounting in a task that need not end.
    """
    check_range("gamma", gamma, 0, 1)
    check_range("epsilon", epsilon, 0, 1)
    states, actions = len(table), len(table[0])
    most = max(len(outcomes) for by_action in table.values() for outcomes in by_action.values())
    probability, reward = np.zeros((2, states, actions, most))
    following = np.zeros((states, actions, most), np.int64)
    discount = np.zeros((states, actions, most))
    for state, by_action in table.items():
        for action, outcomes in by_action.items():
            for i, (share, next_state, gain, terminated) in enumerate(outcomes):
                at = (state, action, i)
                probability[at], following[at], reward[at] = share, next_state, gain
                discount[at] = 0.0 if terminated else gamma

    q_values: NDArray[np.float64] = np.zeros((states, actions))
    for _ in range(max_sweeps):
        values = (1 - epsilon) * q_values.max(1) + epsilon * q_values.mean(1)
        updated = (probability * (reward + discount * values[following])).sum(2)
        moved = np.abs(updated - q_values).max()
        q_values = updated
        if moved <= tolerance:
            return q_values
    raise RlkitError(
        f"value iteration still moves by {moved:.3g} after {max_sweeps:,} sweeps; gamma={gamma} below 1 would settle"
    )
