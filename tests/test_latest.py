"""The latest two steps, and training that goes on from a saved state in the middle of an episode."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from rlkit.agents.temporal_difference import TemporalDifferenceConfig
from rlkit.buffers.latest import LatestSteps
from rlkit.buffers.transition import Transition
from rlkit.collector import Collector
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.registry import make_agent
from rlkit.setting import Setting


def transition(number: float) -> Transition:
    """A step of two environments, the second of which ends an episode."""
    flags = np.array([False, True])
    return Transition(
        obs=(np.full((2, 1), number, np.float32),),
        action=np.array([0, 1]),
        reward=np.array([number, number]),
        terminated=flags.copy(),
        truncated=~flags,
        next_obs=(np.full((2, 1), number + 1, np.float32),),
        final_obs={1: (np.array([number + 10], np.float32),)},
        valid=np.ones(2, np.bool_),
        action_mask=None,
    )


def test_the_step_before_is_none_at_first_and_then_the_one_before() -> None:
    buffer = LatestSteps()
    for number in range(4):
        buffer.add(transition(number))
        assert buffer.latest.reward[0] == number
        assert (buffer.previous is None) == (number == 0)
        assert buffer.previous is None or buffer.previous.reward[0] == number - 1


def test_what_vector_environments_overwrite_is_kept() -> None:
    buffer, step = LatestSteps(), transition(1.0)
    buffer.add(step)
    step.reward[:] = 2.0
    step.terminated[:] = step.truncated[:] = False
    buffer.add(step)
    assert buffer.previous is not None
    np.testing.assert_array_equal(buffer.previous.reward, [1, 1])
    np.testing.assert_array_equal(buffer.previous.terminated, [False, True])
    np.testing.assert_array_equal(buffer.previous.truncated, [True, False])


def test_a_state_is_a_copy_and_comes_back_as_it_was() -> None:
    buffer, other = LatestSteps(), LatestSteps()
    other.add(transition(7.0))
    other.load_state_dict(buffer.state_dict())
    assert other.previous is None
    with pytest.raises(IndexError):
        _ = other.latest
    buffer.add(transition(1.0))
    buffer.add(transition(2.0))
    state = buffer.state_dict()
    buffer.latest.obs[0][:] = -1
    other.load_state_dict(state)
    state["steps"]["final_obs"][0][:] = -1
    for found, expected in ((other.previous, transition(1.0)), (other.latest, transition(2.0))):
        np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("env", ["CliffWalking-v1", "CartPole-v1"])
def test_sarsa_goes_on_bit_by_bit_with_its_buffer(env: str) -> None:
    """In a table and by a network. A buffer that knows no step before would leave out one lesson."""
    envs, _ = make_vector_env(EnvFactory(env), 2, "sync")
    spaces = envs.single_observation_space, envs.single_action_space
    agent: Any = make_agent(TemporalDifferenceConfig(), Setting(*spaces, num_envs=2, seed=0))
    collector, buffer = Collector(envs, [1, 2]), agent.make_buffer(2)

    def go_on(one: Any, where: Collector, steps: Any, updates: int) -> Any:
        for _ in range(updates):
            where.collect(one, steps, 1)
            one.update(steps, 0.2)
        return one.state_dict()["model"]

    go_on(agent, collector, buffer, 75)
    state, stored = agent.state_dict(), buffer.state_dict()
    found = []
    for saved in (stored, LatestSteps().state_dict()):
        other: Any = make_agent(TemporalDifferenceConfig(), Setting(*spaces, num_envs=2, seed=99))
        other.load_state_dict(state)
        latest = other.make_buffer(2)
        latest.load_state_dict(saved)
        found.append(go_on(other, deepcopy(collector), latest, 75))
    expected = go_on(agent, collector, buffer, 75)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[0][name], array, err_msg=name)
    assert any((found[1][name] != array).any() for name, array in expected.items())
