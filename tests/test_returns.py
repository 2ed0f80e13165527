"""Advantages, targets and projected distributions, against known answers and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlkit.advantages import gae
from rlkit.maths.returns import Bools, Floats, discounted_returns, project_distribution, td_targets


def column(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)[:, None]


def flags(*values: int) -> NDArray[np.bool_]:
    return np.array(values, dtype=np.bool_)[:, None]


def random_rollout(
    steps: int, envs: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, steps, envs))
    terminated, truncated = rng.random((2, steps, envs)) < 0.15
    return rewards, values, next_values, terminated, truncated


def gae_by_definition(
    rewards: Floats, values: Floats, next_values: Floats, terminated: Bools, truncated: Bools, gamma: float, lam: float
) -> Floats:
    """The O(T²) sum of discounted TD errors up to the end of the episode."""
    advantages = np.zeros_like(rewards)
    for env in range(rewards.shape[1]):
        for t in range(len(rewards)):
            for k in range(t, len(rewards)):
                bootstrap = 0.0 if terminated[k, env] else gamma * next_values[k, env]
                delta = rewards[k, env] + bootstrap - values[k, env]
                advantages[t, env] += (gamma * lam) ** (k - t) * delta
                if terminated[k, env] or truncated[k, env]:
                    break
    return advantages


@pytest.mark.parametrize("gae_lambda", [0.0, 0.8, 1.0])
def test_equals_the_definition_with_episodes_of_different_length_side_by_side(gae_lambda: float) -> None:
    rollout = random_rollout(40, 5, seed=3)
    assert rollout[3].any()
    assert rollout[4].any()
    np.testing.assert_allclose(gae(*rollout, 0.9, gae_lambda), gae_by_definition(*rollout, 0.9, gae_lambda), atol=1e-12)


def test_lambda_zero_is_the_td_error() -> None:
    rewards, values, next_values, terminated, truncated = random_rollout(10, 3, seed=1)
    td_errors = rewards + 0.9 * np.where(terminated, 0, next_values) - values
    np.testing.assert_allclose(gae(rewards, values, next_values, terminated, truncated, 0.9, 0.0), td_errors)


def test_lambda_one_is_the_discounted_return_less_the_value() -> None:
    values = column(0.5, -1.0, 2.0)
    next_values = column(-1.0, 2.0, 99.0)
    advantages = gae(column(1, 2, 3), values, next_values, flags(0, 0, 1), flags(0, 0, 0), 0.9, 1.0)
    returns = column(1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3, 3)
    np.testing.assert_allclose(advantages, returns - values)


def test_a_truncated_step_takes_the_value_of_the_final_observation() -> None:
    # Values 1 of s_t, 10 of the final observation, 100 of the reset one that the next row starts from.
    target = gae(column(1, 0), column(1, 100), column(10, 0), flags(0, 1), flags(1, 0), 0.9, 0.95)[0, 0] + 1
    assert target == pytest.approx(1 + 0.9 * 10)


def test_terminated_wins_over_truncated_in_the_same_step() -> None:
    advantage = gae(column(1), column(0), column(10), flags(1), flags(1), 0.9, 0.95)
    assert advantage[0, 0] == pytest.approx(1.0)


@pytest.mark.parametrize(("as_termination", "fixed_point"), [(False, 10.0), (True, 1 / (1 - 0.9 * 0.9))])
def test_one_state_with_a_time_limit_is_worth_ten(as_termination: bool, fixed_point: float) -> None:
    """Reward 1 a step, limit 10, γ 0.9: the value that TD learning stays at is 10; with limits as ends, 5.263."""
    ones = np.ones((20, 1))
    value = fixed_point * ones
    nothing, limit = np.zeros((20, 1), bool), (np.arange(20) % 10 == 9)[:, None]
    terminated, truncated = (limit, nothing) if as_termination else (nothing, limit)
    assert gae(ones, value, value, terminated, truncated, 0.9, 0.0).mean() == pytest.approx(0, abs=1e-9)


def test_td_targets_bootstrap_unless_the_episode_terminated() -> None:
    rewards, next_values = np.array([1.0, 1.0, -2.0]), np.array([10.0, 100.0, 1000.0])
    terminated = np.array([False, True, False])  # whether an episode was truncated makes no difference
    np.testing.assert_allclose(td_targets(rewards, next_values, terminated, 0.9), [10.0, 1.0, 898.0])


def test_rewards_to_go_of_two_episodes_of_different_length() -> None:
    rewards = np.array([[1.0, 4.0], [2.0, 8.0], [4.0, 0.0]])
    np.testing.assert_array_equal(discounted_returns(rewards, 0.5), [[3.0, 8.0], [4.0, 8.0], [4.0, 0.0]])
    assert rewards[0, 0] == 1.0


# Distributions

ATOMS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("probabilities", "reward", "gamma", "terminated", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.2, 0.2], 0.0, 1.0, False, [0.1, 0.2, 0.3, 0.2, 0.2]),  # each atom hits itself
        ([0.1, 0.2, 0.3, 0.4, 0.0], 1.0, 1.0, False, [0.0, 0.1, 0.2, 0.3, 0.4]),  # and here the next one
        ([0, 0, 0, 1, 0], 0.25, 0.5, False, [0, 0, 0.25, 0.75, 0]),  # 0.75 is between 0 and 1
        ([0.5, 0, 0, 0, 0.5], 0.5, 0.5, False, [0, 0.25, 0.25, 0.25, 0.25]),  # -0.5 and 1.5
        ([0.2, 0.2, 0.2, 0.2, 0.2], 1.5, 0.9, True, [0, 0, 0, 0.5, 0.5]),  # nothing follows
        ([0.2, 0.2, 0.2, 0.2, 0.2], 7.0, 0.9, True, [0, 0, 0, 0, 1]),
        ([0.2, 0.2, 0.2, 0.2, 0.2], -7.0, 0.9, True, [1, 0, 0, 0, 0]),
        ([0.1, 0.2, 0.3, 0.2, 0.2], 1.0, 1.0, False, [0, 0.1, 0.2, 0.3, 0.4]),  # the last two meet at the end
        ([0.1, 0.2, 0.3, 0.2, 0.2], -1.0, 1.0, False, [0.3, 0.3, 0.2, 0.2, 0]),
    ],
)
def test_projections_of_one_distribution(
    probabilities: list[float], reward: float, gamma: float, terminated: bool, expected: list[float]
) -> None:
    row = np.array([reward]), np.array([probabilities], float), np.array([terminated])
    np.testing.assert_allclose(project_distribution(*row, gamma, ATOMS), [expected], atol=1e-12)


def test_each_row_of_a_projection_has_its_own_discount_and_keeps_to_itself() -> None:
    rewards, ends = np.array([0.0, 9.0, -9.0, 0.0]), np.array([False, False, False, True])
    probabilities = np.tile([0.0, 0, 0, 0, 1], (4, 1))
    projected = project_distribution(rewards, probabilities, ends, np.array([1.0, 1, 1, 0.5]), ATOMS)
    np.testing.assert_array_equal(projected, np.eye(5)[[4, 4, 0, 2]])
    halves = project_distribution(np.zeros(2), probabilities[:2], ends[:2], np.array([0.5, 0.25]), ATOMS)
    np.testing.assert_array_equal(halves, [[0, 0, 0, 1, 0], [0, 0, 0.5, 0.5, 0]])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), num_atoms=st.integers(2, 60), high=st.floats(-5, 50), width=st.floats(0.1, 100))
def test_projections_are_those_of_the_definition(seed: int, num_atoms: int, high: float, width: float) -> None:
    """Bellemare et al. (2017), equation 7: an atom gets of each moved one what its distance leaves, 1 - |b - i|."""
    rng, rows = np.random.default_rng(seed), 7
    atoms = np.linspace(high - width, high, num_atoms)
    spacing = atoms[1] - atoms[0]
    rewards, ends, gammas = rng.normal(size=rows) * width / 3, rng.random(rows) < 0.3, rng.random(rows)
    probabilities = rng.dirichlet(np.ones(num_atoms), rows)
    projected = project_distribution(rewards, probabilities, ends, gammas, atoms)
    moved = np.clip(rewards[:, None] + (gammas * ~ends)[:, None] * atoms, atoms[0], atoms[-1])
    shares = np.clip(1 - np.abs(moved[:, :, None] - atoms) / spacing, 0, 1)
    np.testing.assert_allclose(projected, (shares * probabilities[:, :, None]).sum(1), atol=1e-9)
    np.testing.assert_allclose(projected.sum(1), 1)
    assert (projected >= 0).all()
    np.testing.assert_allclose(projected @ atoms, (moved * probabilities).sum(1), atol=1e-9 * (1 + abs(high) + width))
