"""The collector under every autoreset mode: only real transitions are experience, and none is lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small_envs import LIMIT, Counting, NativeCounting

from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector, Step
from rlkit.envs.vector import SyncVectorEnv as OwnSyncVectorEnv
from rlkit.errors import RlkitError
from rlkit.spaces import Array, Obs, count_true

MODES = list(AutoresetMode)


class Still:
    """Always does the same, and remembers what it saw."""

    def __init__(self, action: Any = 0) -> None:
        self.action = action
        self.masks: list[Array | None] = []

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        self.masks.append(action_mask)
        action = np.stack([np.asarray(self.action)] * len(obs[0]))
        return Step(action, action)


def vector(num_envs: int, mode: AutoresetMode, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Counting(**kwargs) for _ in range(num_envs)], autoreset_mode=mode, copy=False)


def transitions(buffer: RolloutBuffer) -> Counter[tuple[float, float, float, bool]]:
    """(obs, reward, the observation that the step led to, truncated) of every row that is experience."""
    found: Counter[tuple[float, float, float, bool]] = Counter()
    for t in range(len(buffer)):
        for env in range(buffer.num_envs):
            if buffer.valid[t, env]:
                last = buffer.final_obs.get((t, env), tuple(part[t + 1, env] for part in buffer.obs))
                row = (buffer.obs[0][t, env, 0], buffer.rewards[t, env], last[0][0], buffer.truncated[t, env])
                found[tuple(x.item() for x in row)] += 1
    return found


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_yields_the_real_transitions_and_no_more(mode: AutoresetMode) -> None:
    collector = Collector(vector(2, mode), [0, 1])
    buffer = RolloutBuffer(30, 2)
    episodes = collector.collect(Still(), buffer, 30)
    found = transitions(buffer)
    assert set(found) == {(float(s), float(s + 1), float(s + 1), s + 1 == LIMIT) for s in range(LIMIT)}
    # NEXT_STEP spends one row in five on resets: 30 steps are 6 episodes and 6 resets for each environment.
    rows = 24 if mode == AutoresetMode.NEXT_STEP else 30
    assert collector.timesteps == 2 * rows == sum(found.values())
    assert len(episodes) == 2 * (rows // LIMIT)
    assert {(e.episode_return, e.length) for e in episodes} == {(1.0 + 2 + 3 + 4, LIMIT)}


def test_native_environments_yield_real_transitions() -> None:
    collector = Collector(NativeCounting(3), [7, 8, 9])
    buffer = RolloutBuffer(25, 3)
    collector.collect(Still(), buffer, 25)
    assert set(transitions(buffer)) == {(float(s), float(s + 1), float(s + 1), s + 1 == LIMIT) for s in range(LIMIT)}
    assert collector.timesteps == buffer.valid.sum() < 75


@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_goes_on_where_the_last_one_stopped(mode: AutoresetMode) -> None:
    whole, parts = RolloutBuffer(22, 2), RolloutBuffer(11, 2)
    Collector(vector(2, mode), [0, 1]).collect(Still(), whole, 22)
    collector = Collector(vector(2, mode), [0, 1])
    found: Counter[Any] = Counter()
    for _ in range(2):
        parts.clear()
        collector.collect(Still(), parts, 11)
        found += transitions(parts)
    assert found == transitions(whole)


def test_terminated_and_truncated_stay_apart() -> None:
    for terminate in (True, False):
        buffer = RolloutBuffer(8, 1)
        collector = Collector(vector(1, AutoresetMode.SAME_STEP, terminate=terminate), [0])
        collector.collect(Still(), buffer, 8)
        assert buffer.terminated.sum() == (2 if terminate else 0)
        assert buffer.truncated.sum() == (0 if terminate else 2)


def test_observations_of_vector_environments_that_reuse_their_arrays_are_kept() -> None:
    buffer = RolloutBuffer(4, 2)
    Collector(vector(2, AutoresetMode.SAME_STEP), [0, 1]).collect(Still(), buffer, 4)
    np.testing.assert_array_equal(buffer.obs[0][:, 0, 0], [0, 1, 2, 3, 0])


class Nested(Counting):
    def __init__(self) -> None:
        super().__init__()
        parts = {"b": spaces.Tuple((spaces.Discrete(9), spaces.MultiBinary(2))), "a": spaces.Box(0, 9, (1,))}
        self.observation_space = spaces.Dict(parts)

    def _obs(self) -> Any:
        return {"b": (np.int64(self.steps), np.array([1, 0], np.int8)), "a": np.array([self.steps], np.float32)}


@pytest.mark.parametrize("mode", MODES)
def test_nested_observations_are_stored_leaf_by_leaf(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([Nested, Nested], autoreset_mode=mode)
    buffer = RolloutBuffer(9, 2)
    collector = Collector(envs, [0, 1])
    collector.collect(Still(), buffer, 9)
    count, discrete, bits = buffer.obs  # a Dict space is in the order of its keys
    np.testing.assert_array_equal(count[:-1, :, 0], discrete[:-1])
    assert bits.shape == (10, 2, 2)
    if mode != AutoresetMode.NEXT_STEP:
        assert [[last[0].item(), last[1].item()] for last in buffer.final_obs.values()] == [[4, 4]] * 4


class Masking(Counting):
    def reset(self, **kwargs: Any) -> Any:
        obs, _ = super().reset(**kwargs)
        return obs, {"action_mask": np.array([1, 0], np.int8)}

    def step(self, action: int) -> Any:
        return *super().step(action)[:4], {"action_mask": np.array([0, 1], np.int8)}


def test_action_masks_are_those_of_the_observation_acted_on() -> None:
    agent, buffer = Still(), RolloutBuffer(6, 1)
    envs = SyncVectorEnv([Masking], autoreset_mode=AutoresetMode.SAME_STEP)
    Collector(envs, [0]).collect(agent, buffer, 6)
    expected = [[True, False], *[[False, True]] * 3, [True, False], [False, True]]
    assert [mask.tolist()[0] for mask in agent.masks if mask is not None] == expected
    assert buffer.action_masks is not None
    assert buffer.action_masks[:, 0].tolist() == expected


class Broken(Counting):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def step(self, action: int) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.steps == 3:
            if self.how == "raises":
                raise ZeroDivisionError("of its own\nmaking")
            if self.how == "nan obs":
                obs = np.array([np.nan], np.float32)
            if self.how == "inf reward":
                reward = float("inf")
            if self.how == "shape":
                obs = np.zeros(3, np.float32)
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "raised in step after 2 timesteps: ZeroDivisionError: of its own making"),
        ("nan obs", "returned an observation that holds nan in environment 0 after 2 timesteps; it must be"),
        ("inf reward", "returned the reward inf in environment 0 after 2 timesteps; it must be a finite number"),
        ("shape", "returned an observation of shape (3,) after 2 timesteps; the space Box(0.0, inf, (1,), float32)"),
    ],
)
def test_a_broken_environment_is_named_in_one_line(how: str, words: str) -> None:
    collector = Collector(OwnSyncVectorEnv([lambda: Broken(how)]), [0], "environment Broken-v0")
    with pytest.raises(RlkitError) as caught:
        collector.collect(Still(), RolloutBuffer(9, 1), 9)
    assert str(caught.value).startswith("environment Broken-v0 ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_decide_the_data() -> None:
    def collected(seed: int) -> Array:
        envs = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
        buffer = RolloutBuffer(50, 2)
        Collector(envs, [seed, seed + 1]).collect(Still(), buffer, 50)
        return buffer.obs[0].copy()

    np.testing.assert_array_equal(collected(3), collected(3))
    assert (collected(3) != collected(4)).any()


def test_flags_are_counted() -> None:
    flags = np.array([[True, False], [True, True]])
    assert count_true(flags) == 3
    assert count_true(flags[:, 1]) == 1
    assert count_true(~flags & flags) == 0
