"""The ε-greedy policy: its probabilities, and draws from them."""

from __future__ import annotations

import numpy as np
import pytest

from rlkit.maths.exploration import epsilon_greedy, sample, sample_epsilon_greedy


def test_epsilon_is_shared_by_all_and_the_rest_goes_to_the_best() -> None:
    q_values = np.array([[0.0, 2.0, 1.0, -1.0], [3.0, 3.0, 0.0, 3.0]])
    expected = [[0.1, 0.7, 0.1, 0.1], [0.3, 0.3, 0.1, 0.3]]
    np.testing.assert_allclose(epsilon_greedy(q_values, 0.4), expected)
    np.testing.assert_array_equal(epsilon_greedy(q_values, 0.0)[0], [0, 1, 0, 0])
    np.testing.assert_allclose(epsilon_greedy(q_values, 1.0), 0.25)


def test_a_forbidden_action_has_no_probability_however_good() -> None:
    q_values = np.array([[-5.0, -1.0, -2.0], [0.0, 0.0, 0.0]])
    mask = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(epsilon_greedy(q_values, 0.5, mask), [[0.25, 0, 0.75], [1 / 3] * 3])
    np.testing.assert_array_equal(epsilon_greedy(q_values, 0.0, mask)[0], [0, 0, 1])


def test_draws_are_as_frequent_as_they_are_probable() -> None:
    probabilities = np.array([0.0, 0.5, 0.2, 0.0, 0.3])
    drawn = sample(np.tile(probabilities, (20_000, 1)), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, probabilities, atol=0.012)
    assert shares[[0, 3]].tolist() == [0, 0]


@pytest.mark.parametrize("size", [3, 7, 10])
def test_rounding_never_draws_what_cannot_be(size: int) -> None:
    """The sum of the probabilities is below one, and the draw is as large as can be."""
    probabilities = np.full((1, size), 0.1)
    probabilities[0, -1] = 0

    class Largest(np.random.Generator):
        def random(self, *args: object, **kwargs: object) -> np.ndarray:  # type: ignore[override]
            return np.full((1, 1), np.nextafter(1, 0))

    assert sample(probabilities, Largest(np.random.PCG64())).tolist() == [size - 2]


@pytest.mark.parametrize(("rows", "actions"), [(1, 2), (1, 5), (2, 3), (4, 2), (3, 7)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_short_way_draws_the_same_actions(rows: int, actions: int, epsilon: float) -> None:
    rng, short, long = (np.random.default_rng(seed) for seed in (7, 1, 1))
    for _ in range(300):
        q_values = rng.integers(-1, 2, size=(rows, actions)).astype(np.float32)  # often equal
        q_values += rng.normal(size=(rows, 1)).astype(np.float32)
        expected = sample(epsilon_greedy(q_values, epsilon), long)
        np.testing.assert_array_equal(sample_epsilon_greedy(q_values, epsilon, None, short), expected)
    assert short.random() == long.random()


def test_diverged_action_values_choose_some_action() -> None:
    q_values = np.full((1, 3), np.nan, np.float32)
    assert sample_epsilon_greedy(q_values, 0.1, None, np.random.default_rng(0)).shape == (1,)
