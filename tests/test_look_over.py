"""The environment's look-over: wrong definitions are refused in one line, and what is unwise is named."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from user_envs import Late

from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.agents.temporal_difference import TemporalDifferenceConfig
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.setting import Setting
from rlkit.testing import check_env


class Unwise(Late):
    """Does one unwise thing in each step, which `habit` names; endless ones have no episodes of ten steps."""

    def __init__(self, habit: str = "") -> None:
        super().__init__(at=10**9)
        self.habit = habit
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.MultiBinary(2)

    def step(self, action: Any) -> Any:
        match self.habit:
            case "action":
                action[:] = 1 - action
            case "observation":
                self.good[0] += 0.01
            case "np.random":
                np.random.rand()
            case "random":
                random.random()
            case "torch":
                torch.rand(1)
            case "endless":
                self.steps = 0
            case "observation space":
                self.observation_space = spaces.Box(-2, 2, (2,), np.float32)
            case "bounds in place":
                np.asarray(getattr(self.observation_space, "low"))[:] = -3  # noqa: B009
            case "action space":
                self.action_space = spaces.MultiBinary(3)
        return super().step(action)


@pytest.mark.parametrize(
    ("habit", "words"),
    [
        ("action", "it writes into the actions that it gets"),
        ("observation", "it changes an observation after it was returned"),
        ("np.random", "draws from the global generator of np.random"),
        ("random", "draws from the global generator of random,"),
        ("torch", "draws from the global generator of torch"),
        ("endless", "no episode ended in 1,000 random steps, and it has no time limit"),
    ],
)
def test_what_is_unwise_is_named(habit: str, words: str) -> None:
    notes = check_env(Unwise(habit))
    assert len(notes) == 1
    assert notes[0].startswith("env Unwise: ")
    assert words in notes[0]
    assert "\n" not in notes[0]


@pytest.mark.parametrize("habit", ["observation space", "bounds in place", "action space"])
def test_spaces_that_change_are_refused(habit: str) -> None:
    with pytest.raises(RlkitError, match=r"^env Unwise: its (observation|action)_space changed from .*; it must stay"):
        check_env(Unwise(habit))


@pytest.mark.parametrize("id", ["CartPole-v1", "rlkit/Maze-v0", "rlkit/ProbeMaskedAction-v0", "Pendulum-v1"])
def test_good_environments_have_no_notes(id: str) -> None:
    assert check_env(id) == []
    assert check_env(Unwise()) == []


def test_an_environment_with_a_time_limit_ends() -> None:
    gym.register("look/Endless-v0", "test_look_over:Unwise", kwargs={"habit": "endless"}, max_episode_steps=5_000)
    assert check_env("look/Endless-v0") == []


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"observation_space": None}, "its observation_space is None; expected a space"),
        ({"observation_space": 3}, "its observation_space is 3; expected a space"),
        ({"observation_space": spaces.Box}, "its observation_space is <class"),
        ({"observation_space": spaces.Box(0, 1, (0,))}, "has no numbers in it"),
        ({"observation_space": spaces.Dict({"a": spaces.Box(0, 1, (2, 0))})}, "has no numbers in it"),
        ({"observation_space": spaces.Text(3)}, "are not supported"),
        ({"action_space": None}, "its action_space is None; expected a space"),
        ({"action_space": (2,)}, "its action_space is (2,); expected a space"),
        ({"action_space": spaces.Box(0, 1, (0,))}, "has no numbers in it"),
        ({"metadata": None}, "its metadata is None; expected a dict"),
        ({"metadata": ["human"]}, "its metadata is ['human']; expected a dict"),
    ],
)
def test_wrong_definitions_are_one_line(attributes: dict[str, Any], words: str) -> None:
    env = Unwise()
    for name, value in attributes.items():
        setattr(env, name, value)
    with pytest.raises(RlkitError) as caught:
        check_env(env)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["observation_space", "action_space"])
def test_a_space_that_cannot_be_looked_up_is_one_line(which: str) -> None:
    late = type("Late", (gym.Env,), {"observation_space": TWO, "action_space": TWO, which: property(lambda env: 1 / 0)})
    with pytest.raises(RlkitError, match=f"its {which} raised ZeroDivisionError: division by zero$"):
        check_env(late())


HUGE, TWO = spaces.Discrete(10**9), spaces.Discrete(2)


@pytest.mark.parametrize("config", [PPOConfig(), DQNConfig(), TemporalDifferenceConfig()])
@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (HUGE, TWO),
        (spaces.MultiDiscrete([10**8, 10**8]), TWO),
        (spaces.Tuple((TWO, HUGE)), TWO),
        (spaces.Box(-1, 1, (2,)), HUGE),
        (HUGE, HUGE),
    ],
)
def test_spaces_too_large_for_a_network_are_one_line(
    config: Any, observations: spaces.Space[Any], actions: spaces.Space[Any]
) -> None:
    with pytest.raises(RlkitError, match=r"values for a network: expected at most 4,194,304$"):
        make_agent(config, Setting(observations, actions))


def test_multidiscrete_actions_too_many_for_a_network_are_one_line() -> None:
    with pytest.raises(RlkitError, match="values for a network"):
        make_agent(PPOConfig(), Setting(TWO, spaces.MultiDiscrete([10**9, 2])))
