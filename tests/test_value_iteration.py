"""Value iteration: the exact values of mazes, lakes and cliffs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlkit.envs.maze import GOALS, WALL, Maze, state_of
from rlkit.errors import RlkitError
from rlkit.maths.value_iteration import value_iteration


def table_of(id: str) -> Any:
    return gym.make(id).unwrapped.P  # type: ignore[attr-defined]


def test_the_values_of_the_maze() -> None:
    q_values = value_iteration(Maze().P, 0.9)
    rows = q_values.max(1).reshape(3, 4)[::-1]
    expected = [[4.58, 6.2, 8, 10], [3.122, 0, 6.2, -10], [1.8098, 3.122, 4.58, 3.122]]
    np.testing.assert_allclose(rows, expected, atol=1e-8)
    assert q_values[state_of((2, 1)), 2] == pytest.approx(3.122)  # right
    assert q_values[state_of((2, 1)), 0] == pytest.approx(0.62882)  # left
    assert {float(q_values[state_of(goal)].max()) for goal in GOALS} == {10, -10}
    assert not q_values[state_of(WALL)].any()


def test_the_values_of_the_frozen_lake() -> None:
    table = table_of("FrozenLake-v1")
    assert value_iteration(table, 0.99)[0].max() == pytest.approx(0.542026, abs=1e-6)
    assert value_iteration(table, 1.0)[0].max() == pytest.approx(14 / 17, abs=1e-6)


def test_the_best_return_on_the_cliff_is_minus_13() -> None:
    assert value_iteration(table_of("CliffWalking-v1"), 1.0)[36].max() == -13


def test_an_exploring_policy_keeps_away_from_the_cliff() -> None:
    """Where a tenth of the actions is random, the best path is one row further up, and worth less."""
    q_values = value_iteration(table_of("CliffWalking-v1"), 1.0, epsilon=0.1)
    assert q_values[36].max() == pytest.approx(-17.95, abs=0.01)
    assert q_values[24].argmax() == 0  # up, away from the edge; without exploration, right along it
    assert value_iteration(table_of("CliffWalking-v1"), 1.0)[24].argmax() == 1


def test_a_random_policy_has_the_values_of_the_random_walk() -> None:
    """Five states in a row; the right end pays 1: from the left, 1/6 to 5/6 of the walks get there."""
    walk = {
        state: {
            action: [(1.0, min(max(state + move, 0), 4), float(state + move == 5), state + move in (-1, 5))]
            for action, move in enumerate((-1, 1))
        }
        for state in range(5)
    }
    np.testing.assert_allclose(value_iteration(walk, 1.0, epsilon=1.0).mean(1), np.arange(1, 6) / 6, atol=1e-8)


def test_what_has_no_end_has_no_value_without_discounting() -> None:
    with pytest.raises(RlkitError, match="value iteration still moves by 1 after 100 sweeps; gamma=1.0 below 1"):
        value_iteration({0: {0: [(1.0, 0, 1.0, False)]}}, 1.0, max_sweeps=100)
    assert value_iteration({0: {0: [(1.0, 0, 1.0, False)]}}, 0.9) == pytest.approx(10)
    with pytest.raises(RlkitError, match="gamma=1.1 is out of range"):
        value_iteration(Maze().P, 1.1)
