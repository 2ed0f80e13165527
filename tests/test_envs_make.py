"""Making environments: ids, checks of what they return, and the choice of an implementation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlkit.envs import EnvFactory, check_id, find_spec, make, make_env, make_vector_env
from rlkit.envs.check import sample_action
from rlkit.errors import RlkitError

WALK, BAD = "user_envs:user/Walk-v0", "user_envs:user/Bad-v0"


@pytest.mark.parametrize("id", ["CartPole-v1", "rlkit/ProbeActionObs-v0", WALK])
def test_registered_ids_are_known(id: str) -> None:
    check_id(id)
    assert find_spec(id).id == id.rpartition(":")[2]


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("CartPol-v1", "unknown env 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ("CartPole", "unknown env 'CartPole'; did you mean 'CartPole-v1'?"),
        ("LunarLander-v2", "unknown env 'LunarLander-v2'; did you mean 'LunarLander-v3'?"),
        ("rlkit/ProbeTruncated-v0", "did you mean 'rlkit/ProbeTruncation-v0'?"),
        ("user_envs:user/Wolk-v0", "unknown env 'user/Wolk-v0'; did you mean 'user/Walk-v0'?"),
        ("nowhere/Thing-v0", "nothing is registered under 'nowhere/'"),
        ("no_such_module:Thing-v0", "importing no_such_module raised ModuleNotFoundError"),
        (":CartPole-v1", "env ':CartPole-v1' names no module before the colon"),
        ("../beside:CartPole-v1", "names no module before the colon; expected an id, or package.module:Id"),
        ("package.:CartPole-v1", "names no module before the colon"),
    ],
)
def test_unknown_ids_are_told_with_the_nearest(id: str, message: str) -> None:
    with pytest.raises(RlkitError) as error:
        check_id(id)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("constructor", "making it raised ValueError: boom in two lines"),
        ("text", "observations of the space Text(1, 4, charset"),
        ("no parts", "the observation space Dict() is empty"),
        ("reset", "reset raised ValueError: boom in two lines"),
        ("old reset", "reset returned a ndarray; reset must return (obs, info)"),
        ("reset shape", "reset returned an observation of shape (3,); the space Box(-1.0, 1.0, (2,), float32) has"),
        ("reset nan", "reset returned an observation that holds nan"),
        (
            "uint8",
            "reset returned the observation array([0., 0.]) of dtype float64; the space Box(0, 255, (2,), uint8)",
        ),
        ("discrete", "reset returned an observation 2 that is not in its space Discrete(2)"),
        ("missing key", "reset returned an observation that does not fit Dict("),
        ("info", "reset returned the info None; it must be a dict"),
        (
            "mask shape",
            "an action mask of shape (3,); expected 2 booleans, True for each allowed action of",
        ),
        (
            "mask empty",
            "an action mask that forbids every action, array([0, 0], dtype=int8); at least one must be",
        ),
        (
            "mask space",
            "masks are for Discrete and MultiDiscrete actions, not for Box(-1.0, 1.0, (2,), float32)",
        ),
        ("mask ragged", "which is no array; expected 2 booleans"),
        ("done shape", "step returned terminated=array([False]); it must be a bool"),
        ("step", "step raised KeyError: 'boom'"),
        ("old step", "step returned a tuple of 4; step must return (obs, reward, terminated, truncated, info)"),
        ("step shape", "step returned an observation of shape (1, 2)"),
        ("inf", "step returned an observation that holds inf"),
        ("reward nan", "step returned the reward nan; it must be a finite number"),
        ("reward shape", "step returned the reward array([0.])"),
    ],
)
def test_bad_environments_are_told_in_one_line_before_anything_is_made(fault: str, message: str) -> None:
    with pytest.raises(RlkitError) as error:
        make_vector_env(EnvFactory(BAD, {"fault": fault}), 4)
    assert str(error.value).startswith(f"env {BAD}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_keyword_argument_is_told() -> None:
    with pytest.raises(RlkitError, match=r"^env CartPole-v1: making it raised TypeError: .*'gravity'"):
        make_env(EnvFactory("CartPole-v1", {"gravity": 1.6}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EnvFactory(WALK), 2, "native"), f"vectorization=native: {WALK} has no vector implementation of its own"),
        ((EnvFactory("CartPole-v1", render_mode="rgb_array"), 2, "native"), "has no vector implementation of its own"),
        ((EnvFactory("CartPole-v1", preprocessing="atari"), 2), "preprocessing=atari is for Atari environments only"),
        ((EnvFactory("CartPole-v1"), 0), "num_envs=0 is out of range"),
        ((EnvFactory("CartPole-v1"), 2, "asink"), "unknown vectorization 'asink'; did you mean 'async'?"),
    ],
)
def test_requests_that_cannot_be_met_are_told(arguments: Any, message: str) -> None:
    with pytest.raises(RlkitError) as error:
        make_vector_env(*arguments)
    assert message in str(error.value)


def test_keyword_arguments_and_time_limits_reach_the_environment() -> None:
    env = make_env(EnvFactory(WALK, {"limit": 3, "max_episode_steps": 2}))
    assert env.get_wrapper_attr("limit") == 3
    env.reset(seed=0)
    truncations = [env.step(np.zeros(2, np.float32))[3] for _ in range(2)]
    assert truncations == [False, True]
    assert make_env(EnvFactory("CartPole-v1", render_mode="rgb_array")).render_mode == "rgb_array"


def test_action_masks_of_the_environment_are_put_into_info() -> None:
    env = make_env(EnvFactory("rlkit/ProbeMaskedAction-v0"))
    for seed in range(8):
        obs, info = env.reset(seed=seed)
        assert info["action_mask"].tolist() == [True, True, obs[0] < 0]
    assert "action_mask" not in env.step(0)[4]


def test_masked_sampling_takes_allowed_actions_only() -> None:
    discrete, multi = spaces.Discrete(3, seed=0), spaces.MultiDiscrete([2, 3], seed=0)
    assert {int(sample_action(discrete, np.array([1, 0, 1]))) for _ in range(50)} == {0, 2}
    mask = np.array([True, False, False, True, True])
    assert {tuple(sample_action(multi, mask).tolist()) for _ in range(50)} == {(0, 1), (0, 2)}


class TestAuto:
    """The choice of `vectorization=auto`."""

    def choose(self, factory: EnvFactory, num_envs: int) -> str:
        env = make_env(factory)
        choice, reason = make._choose(factory, find_spec(factory.id), env, num_envs)
        assert reason
        return choice

    @pytest.mark.parametrize(("cores", "expected"), [(1, "sync"), (2, "async"), (16, "async")])
    def test_slow_steps_go_to_worker_processes_where_there_are_cores(
        self, monkeypatch: pytest.MonkeyPatch, cores: int, expected: str
    ) -> None:
        monkeypatch.setattr(make, "num_cores", lambda: cores)
        assert self.choose(EnvFactory(WALK, {"step_time": 0.003}), 4) == expected

    @pytest.mark.parametrize(
        ("computing", "waiting", "interrupted", "expected"),
        [
            (100e-6, 0, 0, "sync"),
            (100e-6, 0, 8e-3, "sync"),  # other programs take the core away for a while in every tenth step
            (2e-3, 0, 0, "async"),
            (2e-3, 0, 8e-3, "async"),
            (100e-6, 2e-3, 0, "async"),  # what waits for something needs no core
            (300e-6, 0, 0, "sync"),  # would pay on idle cores, but hardly
        ],
    )
    def test_steps_are_measured_by_what_they_compute_and_wait_for(
        self, monkeypatch: pytest.MonkeyPatch, computing: float, waiting: float, interrupted: float, expected: str
    ) -> None:
        clock = {"wall": 0.0, "cpu": 0.0, "steps": 0}

        class Timed(gym.Wrapper[Any, Any, Any, Any]):
            """Turns the clocks forward."""

            def step(self, action: Any) -> Any:
                clock["steps"] += 1
                clock["cpu"] += computing
                clock["wall"] += computing + waiting + (interrupted if clock["steps"] % 10 == 0 else 0)
                return self.env.step(action)

        monkeypatch.setattr(make, "num_cores", lambda: 8)
        clocks = SimpleNamespace(perf_counter=lambda: clock["wall"], process_time=lambda: clock["cpu"])
        monkeypatch.setattr(make, "time", clocks)
        factory = EnvFactory("CartPole-v1")
        choice, reason = make._choose(factory, find_spec(factory.id), Timed(make_env(factory)), 8)
        assert choice == expected
        assert f"a step takes {(computing + waiting) * 1e3:.2g} ms" in reason

    def test_one_environment_needs_no_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(make, "num_cores", lambda: 16)
        assert self.choose(EnvFactory(WALK, {"step_time": 0.003}), 1) == "sync"

    @pytest.mark.parametrize(("num_envs", "expected"), [(63, "sync"), (64, "native")])
    def test_native_is_for_many(self, num_envs: int, expected: str) -> None:
        assert self.choose(EnvFactory("CartPole-v1"), num_envs) == expected

    def test_native_is_not_taken_where_it_cannot_do_the_same(self) -> None:
        spec = gym.spec("CartPole-v1")
        assert not make._has_native(EnvFactory("CartPole-v1", render_mode="rgb_array"), spec)
        assert not make._has_native(EnvFactory("CartPole-v1", {"unheard_of": 1}), spec)
        assert make._has_native(EnvFactory("CartPole-v1", {"sutton_barto_reward": True}), spec)

    def test_the_choice_is_made_and_told(self) -> None:
        envs, sentence = make_vector_env(EnvFactory("CartPole-v1"), 2)
        assert (envs.num_envs, type(envs).__name__) == (2, "SyncVectorEnv")
        assert sentence.startswith("sync, in this process: a step takes 0.0")
