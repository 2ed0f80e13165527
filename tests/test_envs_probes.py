"""The probes' known answers: what the docstrings say is what comes out of the environments."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlkit.envs import EnvFactory, make_env
from rlkit.envs.probes import ProbeAction, ProbeActionObs

PROBES = sorted(id for id in gym.registry if id.startswith("rlkit/Probe"))
GAMMA = 0.9


def returns(id: str, policy: Any, episodes: int = 40) -> dict[float, set[float]]:
    """The discounted returns of `policy`, by the number that the episode's first observation shows."""
    env = make_env(EnvFactory(id))
    found: dict[float, set[float]] = {}
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        shown, discounted, discount, over = env.get_wrapper_attr("number"), 0.0, 1.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            discounted += discount * float(reward)
            discount *= GAMMA
            over = terminated or truncated
        found.setdefault(shown, set()).add(round(discounted, 6))
    return found


def test_all_probes_are_registered_and_sound() -> None:
    assert len(PROBES) == 17
    for id in PROBES:
        make_env(EnvFactory(id)).close()


@pytest.mark.parametrize("action", [0, 1])
def test_values_that_no_action_changes(action: int) -> None:
    assert returns("rlkit/ProbeConstantReward-v0", lambda obs: action) == {0: {1.0}}
    assert returns("rlkit/ProbeObsValue-v0", lambda obs: action) == {-1: {-1.0}, 1: {1.0}}
    assert returns("rlkit/ProbeTwoStepCredit-v0", lambda obs: action) == {0: {GAMMA}}


def test_truncation_cuts_an_endless_episode_after_ten_steps() -> None:
    env = make_env(EnvFactory("rlkit/ProbeTruncation-v0"))
    obs, _ = env.reset(seed=0)
    steps = [env.step(0) for _ in range(10)]
    assert all(np.array_equal(step[0], obs) and step[1:3] == (1.0, False) for step in steps)
    assert [step[3] for step in steps] == [False] * 9 + [True]


def test_the_action_matters() -> None:
    assert returns("rlkit/ProbeActionMatters-v0", lambda obs: 1) == {0: {1.0}}
    assert returns("rlkit/ProbeActionMatters-v0", lambda obs: 0) == {0: {-1.0}}


READERS = {
    "rlkit/ProbeActionObs-v0": lambda obs: int(obs[0] > 0),
    "rlkit/ProbeDiscreteObs-v0": lambda obs: obs - 3,
    "rlkit/ProbeMultiDiscreteObs-v0": lambda obs: 2 * obs[0] + obs[1],
    "rlkit/ProbeMultiBinaryObs-v0": lambda obs: int(2 * obs[0] + obs[1]),
    "rlkit/ProbeDictObs-v0": lambda obs: 2 * obs["more"]["high"] + int(obs["low"][0] > 0),
    "rlkit/ProbeTupleObs-v0": lambda obs: 2 * obs[1][0] + int(obs[0][0] > 0),
    "rlkit/ProbeImageObs-v0": lambda obs: int(obs[:, 18:].mean() > obs[:, :18].mean()),
    "rlkit/ProbeImageChannelFirstObs-v0": lambda obs: int(obs[:, :, 18:].mean() > obs[:, :, :18].mean()),
}


@pytest.mark.parametrize("id", READERS)
def test_every_kind_of_observation_tells_the_right_action(id: str) -> None:
    right = returns(id, READERS[id])
    assert len(right) == gym.make(id).action_space.n  # type: ignore[attr-defined]
    assert set().union(*right.values()) == {1.0}
    assert set().union(*returns(id, lambda obs: 0).values()) == {1.0, -1.0}
    assert len(READERS) == len(ProbeActionObs.KINDS)


@pytest.mark.parametrize(("kind", "best"), [("box", 0.0), ("multi_discrete", 1.0), ("multi_binary", 1.0)])
def test_every_kind_of_action_has_a_right_one(kind: str, best: float) -> None:
    id = {"box": "Box", "multi_discrete": "MultiDiscrete", "multi_binary": "MultiBinary"}[kind]
    id = f"rlkit/Probe{id}Action-v0"
    space = ProbeAction.KINDS[kind]
    right = {shown: np.array(action, space.dtype) for shown, action in ProbeAction.RIGHT[kind].items()}
    assert returns(id, lambda obs: right[obs[0]]) == {-1: {best}, 1: {best}}
    # The action that is right for the other observation is not for this one.
    wrong = returns(id, lambda obs: right[-obs[0]])
    assert max(wrong[-1] | wrong[1]) < best


def test_actions_outside_the_space_are_refused() -> None:
    env = make_env(EnvFactory("rlkit/ProbeBoxAction-v0"))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="is not in Box"):
        env.step(np.array([0.0, 3.5], np.float32))


def test_the_masked_action_is_refused_where_it_is_masked() -> None:
    assert returns("rlkit/ProbeMaskedAction-v0", lambda obs: 2 if obs[0] < 0 else 1) == {-1: {2.0}, 1: {1.0}}
    with pytest.raises(ValueError, match=r"action 2 is not allowed at observation \+1"):
        returns("rlkit/ProbeMaskedAction-v0", lambda obs: 2)
