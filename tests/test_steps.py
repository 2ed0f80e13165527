"""What environments return in any step of their lives, in every way of stepping them: it fits, or one line says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from user_envs import BOTH, LATE_OBS, LATE_OUTCOMES, Late

import rlkit
from rlkit.agents.base import Agent
from rlkit.agents.ppo import PPOConfig
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector, Step
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.envs.check import checked_flags, checked_reward, checked_rewards
from rlkit.envs.vector import SyncVectorEnv
from rlkit.envs.wrappers import WorkerEnv
from rlkit.episodes import evaluate_policy
from rlkit.errors import Misfit, RlkitError
from rlkit.registry import make_agent
from rlkit.setting import Setting
from rlkit.spaces import LARGEST, Array, Obs, fitted, leaf_spaces, stacked

LATE = "user_envs:user/Late-v0"
OBSERVATIONS = sorted(LATE_OBS)
OUTCOMES = sorted(LATE_OUTCOMES)


class Still:
    """An agent that always does the same."""

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        action = np.zeros(len(obs[0]), np.int64)
        return Step(action, action)


def collect(envs: VectorEnv[Any, Any, Any], steps: int = 60) -> Collector:
    collector = Collector(envs, list(range(envs.num_envs)), "environment Late-v0")
    collector.collect(Still(), RolloutBuffer(steps, envs.num_envs), steps)
    return collector


def told(words: str, act: Callable[[], object]) -> str:
    """Asserts that one line has these words; returns it."""
    with pytest.raises(RlkitError) as caught:
        act()
    line = str(caught.value)
    assert words in line
    assert "\n" not in line
    return line


def result_or_line(act: Callable[[], Any]) -> tuple[Any, str]:
    """Returns what `act` returns, or else the line of its Misfit."""
    try:
        return act(), ""
    except Misfit as misfit:
        return None, str(misfit)


def agent_for(space: spaces.Space[Any]) -> Agent[Any]:
    return make_agent(PPOConfig(), Setting(space, spaces.Discrete(2)))


# Late in an environment's life


@pytest.mark.parametrize("when", ["step", "final", "reset"])
@pytest.mark.parametrize("fault", OBSERVATIONS)
def test_a_late_observation_that_does_not_fit_is_one_line(fault: str, when: str) -> None:
    envs = SyncVectorEnv([lambda: Late(fault, when=when)] * 2)
    line = told(LATE_OBS[fault][3], lambda: collect(envs))
    assert line.startswith("environment Late-v0 returned")
    assert "after 58 timesteps; " in line


@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_late_outcome_that_does_not_fit_is_one_line(fault: str) -> None:
    envs = SyncVectorEnv([Late, lambda: Late(fault)])
    line = told(LATE_OUTCOMES[fault][1], lambda: collect(envs))
    assert line.startswith("environment Late-v0 returned")
    assert "after 58 timesteps; " in line


@pytest.mark.parametrize("fault", [*OBSERVATIONS, *OUTCOMES])
def test_worker_processes_look_at_what_they_send(fault: str) -> None:
    words = LATE_OBS[fault][3] if fault in LATE_OBS else LATE_OUTCOMES[fault][1]
    for when in ("step", "final", "reset") if fault in LATE_OBS else ("step", "final"):
        env = WorkerEnv(Late(fault, at=5, when=when))
        env.reset()

        def act(env: WorkerEnv = env) -> None:
            for _ in range(20):
                if env.step(0)[2]:
                    env.reset()

        told(words, act)


@pytest.mark.parametrize(
    ("fault", "words"), [("bytes 300", LATE_OBS["bytes 300"][3]), ("reward none", LATE_OUTCOMES["reward none"][1])]
)
def test_errors_of_worker_processes_come_home(fault: str, words: str) -> None:
    envs, _ = make_vector_env(EnvFactory(LATE, {"fault": fault}), 2, "async")
    try:
        line = told(words, lambda: collect(envs))
    finally:
        envs.close()
    assert line.startswith("environment Late-v0 returned")


@pytest.mark.parametrize("fault", [*OBSERVATIONS, *OUTCOMES])
def test_evaluations_look_at_every_step(fault: str) -> None:
    words = LATE_OBS[fault][3] if fault in LATE_OBS else LATE_OUTCOMES[fault][1]
    for when in ("step", "final", "reset") if fault in LATE_OBS else ("step",):
        env = Late(fault, at=15, when=when)
        agent = agent_for(env.observation_space)
        line = told(words, partial(evaluate_policy, agent, [Late(fault, at=99), env], 8))
        assert line.startswith("env Late: ")


@pytest.mark.parametrize("fault", OBSERVATIONS)
def test_predict_looks_at_observations(fault: str) -> None:
    space, good, bad, _ = LATE_OBS[fault]
    agent = agent_for(space)
    agent.predict(good)
    if fault == "batch of one" or fault == "discrete array":  # which a caller may well mean
        assert agent.predict(bad)[0].shape == (1,)
    else:
        told("observation", lambda: agent.predict(bad))


def test_values_and_probabilities_look_at_observations() -> None:
    agent: Any = agent_for(spaces.Discrete(3))
    for ask in (agent.value, agent.action_probabilities):
        assert len(ask(np.array([0, 2]))) == 2
        told("an observation 3 in environment 1 that is not in its space", partial(ask, np.array([0, 3])))


def test_parts_of_a_batch_have_as_many_rows_each() -> None:
    batch = {"a": np.zeros(3, int), "b": (np.zeros((2, 2), np.float32), np.zeros((3, 2), np.int8))}
    told("batches of 3, 2, 3", lambda: agent_for(BOTH).predict(batch))


class Leaves(Late):
    """An environment whose methods raise what is no mistake to Python, or what cannot be printed."""

    def __init__(self, error: type[BaseException], at: str) -> None:
        super().__init__(at=10**9)
        self.error, self.at_method, self.calls = error, at, 0

    def step(self, action: Any) -> Any:
        self.calls += 1
        if self.at_method == "step" and self.calls > 7:
            raise self.error
        return super().step(action)

    def close(self) -> None:
        if self.at_method == "close":
            raise self.error


class Mute(Exception):
    """An exception that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "words"),
    [(SystemExit, "SystemExit"), (Mute, "Mute"), (StopIteration, "StopIteration"), (AssertionError, "AssertionError")],
)
def test_whatever_an_environment_raises_is_told(
    error: type[BaseException], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    envs = SyncVectorEnv([lambda: Leaves(error, "step")] * 2)
    told(f"raised in step after 14 timesteps: {words}", lambda: collect(envs))
    agent = agent_for(Late().observation_space)
    told(f"step raised {words}", lambda: evaluate_policy(agent, Leaves(error, "step"), episodes=1))
    SyncVectorEnv([lambda: Leaves(error, "close")]).close()
    assert f"close raised {words}; the results are whole" in capsys.readouterr().err


@pytest.mark.parametrize("value", [(0, 1, 2), [0, 1, 2], (0, 1, {})])
def test_a_tuple_has_no_more_parts_than_its_space(value: Any) -> None:
    space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3)))
    for outer, obs in ((space, value), (spaces.Dict(a=space), {"a": value})):
        with pytest.raises(Misfit, match=r"an observation of 3 parts, .*; the space Tuple\(.*\) has 2$"):
            fitted(outer, obs)


def test_a_worker_of_a3c_tells_it(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"agent.num_workers": 1, "agent.max_restarts": 0, "env_kwargs": {"fault": "discrete 3"}}
    settings |= {"total_timesteps": 400, "num_envs": 1, "eval_interval": 0, "final_eval_episodes": 0}
    train = partial(rlkit.train, "a3c", LATE, run_dir=tmp_path / "run", **settings)
    told(f"environment {LATE} returned an observation 3 that is not in its space Discrete(3)", train)


# Native vector environments


class Native(VectorEnv[Any, Any, Any]):
    """A native vector environment of three, whose step 5 returns what it was made with."""

    num_envs = 3
    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, space: spaces.Space[Any], good: Any, late: tuple[Any, ...]) -> None:
        self.single_observation_space, self.single_action_space = space, spaces.Discrete(2)
        self.good, self.late, self.steps = good, late, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.good, {}

    def step(self, actions: Any) -> Any:
        self.steps += 1
        return self.late if self.steps == 5 else (self.good, np.ones(3), np.zeros(3, bool), np.zeros(3, bool), {})


ONES, FALSE = np.ones(3), np.zeros(3, bool)
BYTES = np.zeros((3, 2), np.uint8)
THREE, PIXELS = spaces.Discrete(3), spaces.Box(0, 255, (2,), np.uint8)


@pytest.mark.parametrize(
    ("space", "good", "late", "words"),
    [
        (
            spaces.Discrete(3),
            np.ones(3, int),
            (np.array([1, 3, 1]), ONES, FALSE, FALSE, {}),
            "observation 3 in environment 1",
        ),
        (THREE, np.ones(3, int), (np.ones((3, 1), int), ONES, FALSE, FALSE, {}), "shape (3, 1)"),
        (THREE, np.ones(3, int), (np.ones(2, int), ONES, FALSE, FALSE, {}), "shape (2,)"),
        (PIXELS, BYTES, (BYTES + 0.5, ONES, FALSE, FALSE, {}), "dtype float64"),
        (PIXELS, BYTES, (BYTES, ONES[:, None], FALSE, FALSE, {}), "reward=array([[1.]"),
        (
            spaces.Box(0, 255, (2,), np.uint8),
            BYTES,
            (BYTES, ONES, FALSE[:2], FALSE, {}),
            "terminated=array([False, False])",
        ),
        (PIXELS, BYTES, (BYTES, ONES * np.inf, FALSE, FALSE, {}), "the reward inf"),
    ],
)
def test_native_environments_are_looked_at(space: spaces.Space[Any], good: Any, late: Any, words: str) -> None:
    told(words, lambda: collect(Native(space, good, late), 9))


# What fits


SPACES = st.recursive(
    st.sampled_from(
        [
            spaces.Box(-1, 1, (2,), np.float32),
            spaces.Box(-9, 9, (), np.float64),
            spaces.Box(0, 255, (2, 3), np.uint8),
            spaces.Box(-5, 5, (1,), np.int16),
            spaces.Discrete(3, start=-1),
            spaces.MultiDiscrete([2, 3], start=[0, 4]),
            spaces.MultiBinary((2, 2)),
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(spaces.Dict),
    ),
    max_leaves=5,
)


@given(SPACES, st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=60)
def test_samples_of_any_space_fit_it(space: spaces.Space[Any], seed: int) -> None:
    space.seed(seed)
    samples = [space.sample() for _ in range(3)]
    for part, leaf in zip(leaf_spaces(space), fitted(space, samples[0]), strict=True):
        assert (leaf.dtype, leaf.shape) == (part.dtype, part.shape)
    batch = fitted(space, stacked(space, samples), (3,))
    for row in range(3):
        for whole, single in zip(batch, fitted(space, samples[row]), strict=True):
            np.testing.assert_array_equal(whole[row], single)


NUMBERS = st.one_of(
    arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)),
    st.none() | st.text(max_size=3) | st.integers() | st.floats() | st.complex_numbers() | st.booleans(),
    st.lists(st.none() | st.integers() | st.floats() | st.text(max_size=2), max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
)


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.zeros((3, 1)), (0.0, 0.0, 0.0), [0.0] * 3, {0: 0.0, 1: 0.0, 2: 0.0}, "abc"]
)
def test_a_tuple_of_too_many_parts_is_told_whatever_holds_them(value: Any) -> None:
    space = spaces.Tuple([spaces.Box(-1, 1, ()), spaces.Box(-1, 1, ())])
    for read in (lambda: fitted(space, value), lambda: stacked(space, [(0.0, 0.0), value])):
        assert "an observation of 3 parts" in result_or_line(read)[1]


@given(SPACES, NUMBERS)
@settings(deadline=None, max_examples=150)
@example(spaces.Tuple([spaces.Box(-9, 9, ())]), np.array([0, 1], np.int8))
def test_anything_fits_as_itself_or_is_told(space: spaces.Space[Any], value: Any) -> None:
    """What is let through has the values that it had, up to the rounding of floats, and lies in a discrete space."""
    obs, line = result_or_line(lambda: fitted(space, value))
    assert "\n" not in line
    if line:
        return
    for part, leaf in zip(leaf_spaces(space), obs, strict=True):
        assert (leaf.dtype, leaf.shape) == (part.dtype, part.shape)
        assert isinstance(part, spaces.Box) or part.contains(leaf)
        if leaf.dtype.kind == "f":
            assert (np.abs(leaf) <= LARGEST).all()
    if len(obs) == 1 and not isinstance(value, dict | list):
        given_numbers = np.asarray(value, np.float64)  # with one dimension more where an array holds a tuple's one part
        np.testing.assert_allclose(obs[0].ravel().astype(np.float64), given_numbers.ravel(), rtol=1e-6, atol=1e-30)


@given(st.lists(NUMBERS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=100)
def test_rewards_and_flags_are_numbers_and_bools_or_told(values: list[Any]) -> None:
    for read, kind in ((checked_rewards, np.float64), (lambda flags: checked_flags("terminated", flags), np.bool_)):
        result, line = result_or_line(partial(read, values))
        assert "\n" not in line
        if line:
            continue
        assert (result.shape, result.dtype) == ((len(values),), kind)
        assert not any(value is None or isinstance(value, str | list | dict) or np.ndim(value) for value in values)


def test_rewards_may_be_any_real_number() -> None:
    from decimal import Decimal
    from fractions import Fraction

    rewards = [1, np.float32(0.5), True, Decimal("0.25"), Fraction(1, 8), np.array(2.0), torch.tensor(4.0)]
    assert checked_rewards(rewards).tolist() == [1, 0.5, 1, 0.25, 0.125, 2, 4]
    told("the reward tensor(1., requires_grad=True)", lambda: checked_reward(torch.ones((), requires_grad=True)))
    told(
        "the reward tensor(1., requires_grad=True)", lambda: checked_rewards([torch.ones((), requires_grad=True), 1.0])
    )


def test_integers_of_another_type_fit_by_their_values() -> None:
    space = spaces.Box(0, 255, (2,), np.uint8)
    assert fitted(space, np.array([0, 255], np.int64))[0].dtype == np.uint8
    assert stacked(space, [[0, 255], np.array([1, 2], np.uint8)]).tolist() == [[0, 255], [1, 2]]
    assert fitted(spaces.MultiBinary(2), [True, False])[0].tolist() == [1, 0]
    assert fitted(spaces.Discrete(3), np.int8(2))[0] == 2


def test_the_end_of_an_episode_is_looked_at_in_gymnasiums_own_vector_environments() -> None:
    envs = gym.vector.SyncVectorEnv([lambda: Late("shape", when="final")], autoreset_mode=AutoresetMode.SAME_STEP)
    told("an observation of shape (3,)", lambda: collect(envs))
