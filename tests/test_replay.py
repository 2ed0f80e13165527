"""Replay buffers: known answers on environments that count, priorities, memory, and state."""

from __future__ import annotations

import errno
import gc
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from small_envs import Counting, NativeCounting

from rlkit.buffers import storage
from rlkit.buffers.batch import ReplayBatch, distinct
from rlkit.buffers.frames import FrameStackStorage, is_stack
from rlkit.buffers.prioritized import PrioritizedReplayBuffer, SumTree
from rlkit.buffers.replay import ReplayBuffer
from rlkit.buffers.transition import Transition
from rlkit.collector import Collector, Step
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError
from rlkit.maths.returns import n_step_returns
from rlkit.spaces import Array, Obs, leaf_spaces, leaves

COUNT = spaces.Box(0, np.inf, (1,), np.float32)
ACTIONS = spaces.Discrete(2)
RNG = np.random.default_rng(0)
MODES = list(AutoresetMode)


class Sampling:
    """Acts at random, and remembers nothing."""

    def __init__(self, space: spaces.Discrete[Any]) -> None:
        self.space, self.rng = space, np.random.default_rng(0)

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        action = self.rng.integers(self.space.n, size=len(obs[0]))
        if action_mask is not None:
            action = (self.rng.random(action_mask.shape) * action_mask).argmax(1)
        return Step(action, action + self.space.start)


def counting(mode: AutoresetMode, num_envs: int = 3, **kwargs: Any) -> Any:
    return GymSyncVectorEnv([partial(Counting, **kwargs)] * num_envs, autoreset_mode=mode)


def filled(envs: Any, steps: int, size: int = 1000, kind: type[ReplayBuffer] = ReplayBuffer, **kwargs: Any) -> Any:
    """A buffer with so many vector steps of the environments in it."""
    buffer = kind(size, envs.num_envs, envs.single_observation_space, envs.single_action_space, **kwargs)
    Collector(envs, list(range(envs.num_envs))).collect(Sampling(envs.single_action_space), buffer, steps)
    return buffer


def stored(buffer: ReplayBuffer) -> ReplayBatch:
    """Every transition in the buffer, in the order of time."""
    oldest = (buffer._head - buffer._length) * buffer.num_envs
    rows = np.arange(oldest, oldest + len(buffer)) % buffer._rows
    return buffer._batch(rows[buffer._valid[rows]])


def transition(obs: Any, action: int = 0, reward: float = 0.0, **ends: Any) -> Transition:
    """A step of one environment, from a number to the next."""
    next_obs = ends.pop("next_obs", obs + 1)
    flags = {name: np.array([ends.pop(name, False)]) for name in ("terminated", "truncated")}
    final_obs: dict[int, Obs] = {0: (np.array([ends.pop("final")], np.float32),)} if "final" in ends else {}
    return Transition(
        (np.array([[obs]], np.float32),),
        np.array([action]),
        np.array([reward]),
        **flags,
        next_obs=(np.array([[next_obs]], np.float32),),
        final_obs=final_obs,
        valid=np.array([True]),
        action_mask=None,
        **ends,
    )


# What is stored


@pytest.mark.parametrize("size", [1000, 17, 6])
@pytest.mark.parametrize("mode", MODES)
def test_transitions_are_those_of_the_environment(mode: AutoresetMode, size: int) -> None:
    """The environment counts: observation n is followed by n + 1, for which the reward is n + 1, up to 4."""
    buffer = filled(counting(mode), 50, size)
    assert len(buffer) == (150 if size == 1000 else size // 3 * 3)
    batch = stored(buffer)
    obs, next_obs = batch.obs[0][:, 0], batch.next_obs[0][:, 0]
    assert set(obs) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(next_obs, obs + 1)
    np.testing.assert_array_equal(batch.reward, obs + 1)
    assert not batch.terminated.any()
    np.testing.assert_allclose(batch.gamma, 0.99)


def test_the_native_environments_resets_are_no_transitions() -> None:
    buffer = filled(NativeCounting(4), 20)
    assert buffer.added == np.count_nonzero(buffer._valid) == 64  # of 80 rows, each fifth is a reset
    batch = buffer.sample(500, RNG)
    np.testing.assert_array_equal(batch.next_obs[0], batch.obs[0] + 1)
    np.testing.assert_array_equal(batch.reward, batch.obs[0][:, 0] + 1)


@pytest.mark.parametrize("mode", MODES)
def test_an_end_has_no_next_value_and_a_time_limit_has(mode: AutoresetMode) -> None:
    for terminate in (True, False):
        batch = stored(filled(counting(mode, terminate=terminate), 20))
        np.testing.assert_array_equal(batch.terminated, (batch.obs[0][:, 0] == 3) & terminate)


def test_both_flags_at_once_are_an_end() -> None:
    buffer = ReplayBuffer(10, 1, COUNT, ACTIONS)
    buffer.add(transition(0, terminated=True, truncated=True, next_obs=0, final=1))
    assert stored(buffer).terminated.all()


def test_last_observations_take_the_places_of_those_that_were_overwritten() -> None:
    buffer = filled(counting(AutoresetMode.SAME_STEP, 2), 4, size=8)
    collector = Collector(counting(AutoresetMode.SAME_STEP, 2), [0, 1])
    for _ in range(200):
        collector.collect(Sampling(ACTIONS), buffer, 1)
        batch = stored(buffer)
        np.testing.assert_array_equal(batch.next_obs[0], batch.obs[0] + 1)
    assert len(buffer._obs[0]._final._values) == 16  # as much as it has at first: slots are used again


def test_a_new_collector_cuts_the_episodes_that_were_open() -> None:
    """Its first observations are no consequence of the last ones, so those are kept aside."""
    buffer = filled(counting(AutoresetMode.SAME_STEP), 6)
    Collector(counting(AutoresetMode.SAME_STEP), [0, 1, 2]).collect(Sampling(ACTIONS), buffer, 6)
    batch = stored(buffer)
    np.testing.assert_array_equal(batch.next_obs[0], batch.obs[0] + 1)
    assert not batch.terminated.any()
    assert np.count_nonzero(buffer._truncated) == 3 + 3 + 3


NESTED = ["ProbeDictObs-v0", "ProbeTupleObs-v0", "ProbeDiscreteObs-v0", "ProbeImageObs-v0", "ProbeMultiBinaryObs-v0"]


@pytest.mark.parametrize("probe", NESTED)
def test_every_kind_of_observation_is_kept_as_it_was(probe: str) -> None:
    envs, _ = make_vector_env(EnvFactory(f"rlkit/{probe}"), 3, "sync")
    buffer = filled(envs, 30)
    batch = stored(buffer)
    parts = leaf_spaces(envs.single_observation_space)
    for leaf, space in zip(batch.obs, parts, strict=True):
        assert leaf.shape[1:] == (space.shape or ())
    for i in range(len(batch.reward)):  # a right action is the number that the observation shows
        number = int(batch.action[i])
        shown = [leaf[i] for leaf in batch.obs]
        right = batch.reward[i] == 1.0
        example = make_example(probe, number)
        same = all(np.array_equal(a, b) for a, b in zip(shown, example, strict=True))
        assert same == right


def make_example(probe: str, number: int) -> Obs:
    """The observation of a probe that shows a number."""
    env: Any = EnvFactory(f"rlkit/{probe}")().unwrapped
    env.number = number
    return leaves(env.observation_space, env._obs())


def test_action_masks_go_with_their_observations() -> None:
    envs, _ = make_vector_env(EnvFactory("rlkit/ProbeMaskedAction-v0"), 2, "sync")
    buffer = filled(envs, 20, size=16)
    # Episodes are one step long: what is after a step is the next episode's first observation, and its mask.
    batch = buffer.sample(200, RNG)
    assert batch.next_action_mask is not None
    np.testing.assert_array_equal(batch.next_action_mask[:, 2], batch.next_obs[0][:, 0] < 0)
    assert batch.next_action_mask[:, :2].all()
    assert {0, 1} == set(batch.next_action_mask[:, 2].astype(int))


def test_recent_observations_are_the_newest() -> None:
    buffer = filled(counting(AutoresetMode.SAME_STEP), 22, size=30)
    np.testing.assert_array_equal(buffer.recent_obs(2)[0][:, 0], [0] * 3 + [1] * 3)
    assert len(buffer.recent_obs(100)[0]) == 30
    with_resets = filled(counting(AutoresetMode.NEXT_STEP), 6)
    np.testing.assert_array_equal(with_resets.recent_obs(3)[0][:, 0], [3] * 3 + [0] * 3)


# Returns of n steps


def test_n_step_returns_of_a_known_list() -> None:
    rewards = np.array([[1, 2, 4], [1, 2, 4], [1, 2, 4], [1, 2, 4]], np.float32)
    ended = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1]], np.bool_)
    returns, lengths = n_step_returns(rewards, ended, 0.5 ** np.arange(4))
    np.testing.assert_allclose(returns, [3, 3, 2, 1])
    np.testing.assert_array_equal(lengths, [3, 3, 2, 1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("terminate", [True, False])
@pytest.mark.parametrize("size", [1000, 21])
def test_three_steps_never_mix_episodes(mode: AutoresetMode, terminate: bool, size: int) -> None:
    """Rewards are 1, 2, 3, 4 in each episode: the known returns from each observation, at γ = 1/2."""
    buffer = filled(counting(mode, terminate=terminate), 42, size, n_step=3, gamma=0.5)
    batch = stored(buffer)
    known = {0: (1 + 2 / 2 + 3 / 4, 3), 1: (2 + 3 / 2 + 4 / 4, 4), 2: (3 + 4 / 2, 4), 3: (4, 4)}
    seen = set()
    for obs, reward, next_obs, gamma, terminated in zip(
        batch.obs[0][:, 0], batch.reward, batch.next_obs[0][:, 0], batch.gamma, batch.terminated, strict=True
    ):
        steps = round(np.log2(1 / gamma))
        if steps < min(3, 4 - obs):  # cut at the newest step
            assert next_obs == obs + steps
            assert reward == sum((obs + 1 + k) / 2**k for k in range(steps))
            continue
        assert (reward, next_obs if not terminated else 4) == known[int(obs)]
        assert steps == next_obs - obs or terminated
        assert terminated == (terminate and obs > 0)
        seen.add(int(obs))
    assert seen == {0, 1, 2, 3}


def test_the_newest_steps_look_no_further_than_they_can() -> None:
    buffer = ReplayBuffer(5, 1, COUNT, ACTIONS, n_step=3, gamma=0.5)
    for n in range(9):
        buffer.add(transition(n, reward=1.0))
    batch = stored(buffer)
    np.testing.assert_array_equal(batch.obs[0][:, 0], [4, 5, 6, 7, 8])
    np.testing.assert_array_equal(batch.next_obs[0][:, 0], [7, 8, 9, 9, 9])
    np.testing.assert_allclose(batch.reward, [1.75, 1.75, 1.75, 1.5, 1.0])
    np.testing.assert_allclose(batch.gamma, [1 / 8, 1 / 8, 1 / 8, 1 / 4, 1 / 2])


# Drawing


@pytest.mark.parametrize("size", [1000, 90])
def test_every_transition_is_drawn_as_often(size: int) -> None:
    buffer = filled(counting(AutoresetMode.NEXT_STEP), 50, size)
    rows = buffer.sample(20_000, np.random.default_rng(1)).rows
    where, counts = np.unique(rows, return_counts=True)
    assert len(where) == len(stored(buffer).rows)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_batch_does_not_change_when_the_ring_goes_on() -> None:
    buffer = filled(counting(AutoresetMode.SAME_STEP), 5, size=15)
    batch = buffer.sample(8, RNG)
    before = batch.obs[0].copy(), batch.reward.copy(), batch.next_obs[0].copy()
    Collector(counting(AutoresetMode.SAME_STEP), [7, 8, 9]).collect(Sampling(ACTIONS), buffer, 10)
    for old, new in zip(before, (batch.obs[0], batch.reward, batch.next_obs[0]), strict=True):
        np.testing.assert_array_equal(old, new)


# Priorities


@pytest.mark.parametrize("size", [1, 2, 5, 8, 1000])
def test_the_sum_trees_root_is_the_sum(size: int) -> None:
    rng, tree, numbers = np.random.default_rng(size), SumTree(size), np.zeros(size)
    for _ in range(20):
        indices = rng.integers(size, size=min(size, 30))
        values = rng.random(len(indices)) * rng.integers(2, size=len(indices))
        for i, value in zip(indices, values, strict=True):
            numbers[i] = value
        tree[indices] = values
        np.testing.assert_array_equal(tree[np.arange(size)], numbers)
        assert tree.total == pytest.approx(numbers.sum())
        for level in range(tree.depth):
            assert tree.nodes[2**level : 2 ** (level + 1)].sum() == pytest.approx(numbers.sum())


def test_the_sum_tree_finds_where_running_sums_pass() -> None:
    tree = SumTree(6)
    tree[np.arange(6)] = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.5])
    sums = np.array([0.0, 0.99, 1.0, 2.99, 3.0, 3.49, 3.5, 4.99, 5.0, 6.0])
    np.testing.assert_array_equal(tree.find(sums), [0, 0, 2, 2, 3, 3, 5, 5, 5, 5])


def test_the_sum_tree_never_finds_a_zero() -> None:
    rng = np.random.default_rng(3)
    tree = SumTree(1000)
    tree[np.arange(1000)] = np.where(rng.random(1000) < 0.5, 0, rng.random(1000) * 10.0 ** rng.integers(-8, 8, 1000))
    sums = np.concatenate([rng.random(10_000), 1 - np.logspace(-17, -1, 100), [0.0, 1.0]]) * tree.total
    assert tree[tree.find(sums)].min() > 0


def prioritized(envs: Any, steps: int, size: int = 1000, **kwargs: Any) -> PrioritizedReplayBuffer:
    buffer: PrioritizedReplayBuffer = filled(envs, steps, size, PrioritizedReplayBuffer, **kwargs)
    return buffer


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_rows_are_drawn_in_proportion_to_priority_to_the_power_of_alpha(alpha: float) -> None:
    buffer = prioritized(counting(AutoresetMode.NEXT_STEP), 20, size=45, alpha=alpha)
    rows = stored(buffer).rows
    priorities = np.random.default_rng(0).random(len(rows)) * 5
    buffer.sample(1, RNG)  # lets the new transitions in
    buffer.update_priorities(rows, priorities)
    drawn = np.concatenate([buffer.sample(32, RNG).rows for _ in range(1000)])
    counts = np.array([np.count_nonzero(drawn == row) for row in rows])
    expected = priorities**alpha / (priorities**alpha).sum()
    assert counts.sum() == len(drawn)  # nothing else was drawn: no resets, and not the head
    assert stats.chisquare(counts, expected * len(drawn)).pvalue > 1e-3


def test_the_largest_weight_is_one_and_beta_undoes_the_uneven_draw() -> None:
    buffer = prioritized(counting(AutoresetMode.SAME_STEP), 40, alpha=0.7, beta=0.0)
    buffer.sample(1, RNG)
    priorities = np.random.default_rng(1).random(120) + 0.1
    buffer.update_priorities(stored(buffer).rows, priorities)
    for beta in (0.0, 0.4, 1.0):
        batch = buffer.sample(64, RNG, progress=beta)
        assert batch.weights is not None
        assert batch.weights.max() == 1
        probability = buffer._tree[batch.rows] / buffer._tree.total
        known = (120 * probability) ** -beta
        np.testing.assert_allclose(batch.weights, known / known.max(), rtol=1e-5)


def test_new_transitions_have_the_highest_priority_so_far() -> None:
    buffer = prioritized(counting(AutoresetMode.SAME_STEP, 1), 4, alpha=0.5)
    batch = buffer.sample(4, RNG)
    buffer.update_priorities(batch.rows, np.array([4.0, 9.0, 1.0, 1.0]))
    Collector(counting(AutoresetMode.SAME_STEP, 1), [0]).collect(Sampling(ACTIONS), buffer, 2)
    buffer.sample(4, RNG)
    np.testing.assert_allclose(buffer._tree[np.array([4, 5])], 3.0)
    assert buffer._tree[np.array([6])] == 0


def test_what_is_overwritten_is_never_drawn() -> None:
    buffer = prioritized(counting(AutoresetMode.NEXT_STEP), 3, size=12)
    collector = Collector(counting(AutoresetMode.NEXT_STEP), [0, 1, 2])
    for steps in (1, 2, 1, 9, 1, 30, 3):
        collector.collect(Sampling(ACTIONS), buffer, steps)
        batch = buffer.sample(100, RNG)
        assert set(batch.rows) <= set(stored(buffer).rows)
        np.testing.assert_array_equal(batch.next_obs[0], batch.obs[0] + 1)
        buffer.update_priorities(batch.rows, RNG.random(100) * 100)


# Stacked frames


STACK = 4


class Film(gym.Env[Any, Any]):
    """Its frames are noise, stacked; episodes are 1 to 9 steps, and end either way.

    `start` is what an episode's first stack holds beside its first frame: zeros, that frame, or the last stack's.
    """

    def __init__(self, start: str = "zeros", seed: int = 0) -> None:
        self.observation_space = spaces.Box(0, 255, (STACK, 8, 9), np.uint8)
        self.action_space = spaces.Discrete(2)
        self.start, self.rng = start, np.random.default_rng(seed)
        self.stack = np.zeros((STACK, 8, 9), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.rng.integers(1, 10)
        if self.start == "zeros":
            self.stack = np.zeros_like(self.stack)
        self._film()
        if self.start == "same":
            self.stack = np.repeat(self.stack[-1:], STACK, axis=0)
        return self.stack, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        over, kind = self.left == 0, self.rng.random() < 0.5
        self._film()
        return self.stack, float(self.stack[-1, 0, 0]), bool(over and kind), bool(over and not kind), {}

    def _film(self) -> None:
        self.stack = np.concatenate([self.stack[1:], self.rng.integers(256, size=(1, 8, 9)).astype(np.uint8)])


class Remembering:
    """Adds to a buffer, and keeps every transition as it is, the oldest first."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer
        self.seen: list[tuple[Array, Array, float, bool]] = []

    def add(self, step: Transition) -> None:
        self.buffer.add(step)
        for env in np.flatnonzero(step.valid):
            next_obs = step.final_obs.get(int(env), tuple(leaf[env] for leaf in step.next_obs))
            self.seen.append(
                (step.obs[0][env].copy(), next_obs[0].copy(), float(step.reward[env]), bool(step.terminated[env]))
            )


@pytest.mark.parametrize("size", [1000, 30, 7])
@pytest.mark.parametrize("start", ["zeros", "same", "last"])
@pytest.mark.parametrize("mode", MODES)
def test_stacks_are_what_they_were_though_frames_are_stored_once(mode: AutoresetMode, start: str, size: int) -> None:
    """At starts of episodes, truncations and wherever the ring wraps around, for one environment and for three."""
    for num_envs in (1, 3):
        envs = GymSyncVectorEnv([partial(Film, start, seed) for seed in range(num_envs)], autoreset_mode=mode)
        buffer = ReplayBuffer(size, num_envs, envs.single_observation_space, ACTIONS)
        assert isinstance(buffer._obs[0], FrameStackStorage)
        remembering, collector = Remembering(buffer), Collector(envs, list(range(num_envs)))
        for _ in range(20):
            collector.collect(Sampling(ACTIONS), remembering, 4)
            batch = stored(buffer)
            seen = remembering.seen[-len(batch.rows) :]
            for i, (obs, next_obs, reward, terminated) in enumerate(seen):
                np.testing.assert_array_equal(batch.obs[0][i], obs)
                assert batch.reward[i] == reward
                assert batch.terminated[i] == terminated
                if not terminated:
                    np.testing.assert_array_equal(batch.next_obs[0][i], next_obs)
            assert np.shares_memory(batch.obs[0], batch.next_obs[0])  # the frames that both have are read once


@pytest.mark.parametrize("aside", [False, True])
def test_a_next_stack_of_other_frames_is_not_taken_for_a_moved_one(aside: bool) -> None:
    frames = RNG.integers(256, size=(12, 8, 9)).astype(np.uint8)
    stacks = [frames[i : i + STACK] for i in range(12 - STACK)]
    buffer = ReplayBuffer(100, 1, spaces.Box(0, 255, (STACK, 8, 9), np.uint8), ACTIONS)
    nobody, everybody = np.zeros(1, np.bool_), np.ones(1, np.bool_)
    expected = [(stacks[0], stacks[1]), (stacks[1], stacks[2]), (stacks[2], stacks[7]), (stacks[7], stacks[6])]
    for i, (obs, next_obs) in enumerate(expected):
        cut = aside and i == 2
        last: dict[int, Obs] = {0: (next_obs,)} if cut else {}
        flags = nobody, everybody if cut else nobody
        buffer.add(Transition((obs[None],), nobody, np.zeros(1), *flags, (next_obs[None],), last, everybody, None))
    batch = stored(buffer)
    for i, (obs, next_obs) in enumerate(expected):
        np.testing.assert_array_equal(batch.obs[0][i], obs)
        np.testing.assert_array_equal(batch.next_obs[0][i], next_obs)
    first = buffer._batch(batch.rows[:2])
    assert np.shares_memory(first.obs[0], first.next_obs[0])
    assert not np.shares_memory(batch.obs[0], batch.next_obs[0])


def test_frames_take_a_stacks_share_of_the_memory() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = ReplayBuffer(1000, 1, space, ACTIONS)
    assert buffer.nbytes / 1000 == pytest.approx(84 * 84, rel=0.01)
    film = GymSyncVectorEnv([Film], autoreset_mode=AutoresetMode.SAME_STEP)
    short_episodes = ReplayBuffer(500, 1, film.single_observation_space, ACTIONS)
    Collector(film, [0]).collect(Sampling(ACTIONS), short_episodes, 3000)
    frame = 8 * 9
    assert short_episodes.nbytes < 500 * (frame * 2.2 + 30)  # 3 frames and half a final stack for each 5 steps


def test_priorities_go_with_stacked_frames() -> None:
    film = GymSyncVectorEnv([Film, Film], autoreset_mode=AutoresetMode.SAME_STEP)
    buffer = prioritized(film, 7, size=20)
    for seed in range(10):
        batch = buffer.sample(50, RNG)
        assert set(batch.rows) == set(stored(buffer).rows)  # one of each fiftieth
        Collector(film, [seed, seed]).collect(Sampling(ACTIONS), buffer, 3)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((4, 84, 84), np.uint8, True),
        ((2, 16, 16, 3), np.uint8, True),
        ((3, 64, 64), np.uint8, False),  # colours first
        ((64, 64, 3), np.uint8, False),
        ((1, 84, 84), np.uint8, False),
        ((4, 84, 84), np.float32, False),
        ((4, 6, 6), np.uint8, False),
        ((84, 84), np.uint8, False),
    ],
)
def test_what_counts_as_stacked_frames(shape: tuple[int, ...], dtype: Any, expected: bool) -> None:
    assert is_stack(spaces.Box(0, 255, shape, dtype)) == expected


def test_images_that_are_no_stack_are_kept_all_the_same() -> None:
    """What looks like stacked frames and is not takes more memory, and is read as it was."""
    rng, buffer = np.random.default_rng(0), ReplayBuffer(20, 1, spaces.Box(0, 255, (4, 8, 8), np.uint8), ACTIONS)
    images = rng.integers(256, size=(50, 1, 4, 8, 8)).astype(np.uint8)
    for i in range(49):
        step = transition(0, reward=float(i))
        buffer.add(step._replace(obs=(images[i],), next_obs=(images[i + 1],)))
    batch = stored(buffer)
    np.testing.assert_array_equal(batch.obs[0], images[29:49, 0])
    np.testing.assert_array_equal(batch.next_obs[0], images[30:50, 0])


# Memory and state


def test_a_buffer_that_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "available_memory", lambda: 1_000_000)
    images = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    words = (
        r"^agent.replay.size=1_000 needs 21,2\d\d,\d{3} bytes of memory, but only 1,000,000 are available: "
        r"at most about 47 transitions fit, and agent.replay.folder=. keeps observations on the disk of this folder "
        r"instead$"
    )
    with pytest.raises(RlkitError, match=words):
        ReplayBuffer(1000, 1, images, ACTIONS)
    ReplayBuffer(40, 1, images, ACTIONS)


def test_an_absurd_size_is_an_error_of_one_line() -> None:
    with pytest.raises(RlkitError, match=r"needs 29,000,000,\d{3},\d{3},\d{3}"):
        ReplayBuffer(10**15, 1, spaces.Box(0, 1, (17,), np.uint8), ACTIONS)


def test_the_available_memory_is_known() -> None:
    available = storage.available_memory()
    assert available is not None
    assert 2**20 < available < 2**50


def test_no_observation_is_stored_twice() -> None:
    buffer = ReplayBuffer(10_000, 1, spaces.Box(-1, 1, (4,)), ACTIONS)
    assert buffer.nbytes / 10_000 == pytest.approx(16 + 1 + 4 + 3 + 4, rel=1e-3)
    doubles = ReplayBuffer(10_000, 1, spaces.Box(-1, 1, (4,), np.float64), ACTIONS)
    assert doubles.nbytes == buffer.nbytes  # networks take float32


@pytest.mark.parametrize("kind", [ReplayBuffer, PrioritizedReplayBuffer])
@pytest.mark.parametrize("probe", ["ProbeMaskedAction-v0", "ProbeTruncation-v0", "ProbeDictObs-v0", "Film"])
def test_state_goes_on_as_if_nothing_had_happened(kind: type[ReplayBuffer], probe: str) -> None:
    if probe == "Film":
        envs: Any = GymSyncVectorEnv([Film, Film], autoreset_mode=AutoresetMode.SAME_STEP)
    else:
        envs, _ = make_vector_env(EnvFactory(f"rlkit/{probe}"), 2, "sync")
    collector, agent = Collector(envs, [0, 1]), Sampling(envs.single_action_space)
    buffers = [
        kind(30, 2, envs.single_observation_space, envs.single_action_space, n_step=2, gamma=0.9) for _ in range(2)
    ]
    collector.collect(agent, buffers[0], 23)
    buffers[1].load_state_dict(buffers[0].state_dict())
    both = Both(buffers)
    collector.collect(agent, both, 7)
    assert_same_batches(buffers)
    assert buffers[0].added == buffers[1].added
    assert buffers[0].episodes == buffers[1].episodes


# On disk


@pytest.mark.parametrize("kind", [ReplayBuffer, PrioritizedReplayBuffer])
@pytest.mark.parametrize("probe", ["ProbeMaskedAction-v0", "ProbeTruncation-v0", "ProbeDictObs-v0", "Film"])
def test_storage_on_disk_gives_the_same_batches_and_leaves_nothing(
    kind: type[ReplayBuffer], probe: str, tmp_path: Path
) -> None:
    """Also once the state of one has gone to a third buffer, of the other kind of storage."""
    if probe == "Film":
        envs: Any = GymSyncVectorEnv([partial(Film, seed=i) for i in range(2)], autoreset_mode=AutoresetMode.SAME_STEP)
    else:
        envs, _ = make_vector_env(EnvFactory(f"rlkit/{probe}"), 2, "sync")

    def make(folder: Path | None) -> ReplayBuffer:
        return kind(30, 2, envs.single_observation_space, envs.single_action_space, n_step=2, gamma=0.9, folder=folder)

    buffers = [make(None), make(tmp_path)]
    collector, agent = Collector(envs, [0, 1]), Sampling(envs.single_action_space)
    collector.collect(agent, Both(buffers), 120)  # long enough for what is set aside to need more room
    assert_same_batches(buffers)
    buffers += [make(None), make(tmp_path)]
    buffers[2].load_state_dict(buffers[1].state_dict())
    buffers[3].load_state_dict(buffers[0].state_dict())
    assert_same_batches(buffers)
    collector.collect(agent, Both(buffers), 9)
    assert_same_batches(buffers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is read from /proc")
def test_disk_space_is_given_back_with_the_buffer(tmp_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{tmp_path}/")

    buffer = ReplayBuffer(100, 1, spaces.Box(0, 255, (4, 84, 84), np.uint8), ACTIONS, folder=tmp_path)
    assert mapped() == 1
    del buffer
    gc.collect()
    assert mapped() == 0


def test_a_disk_that_is_too_small_is_an_error_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    images = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    words = (
        r"^agent.replay.size=1_000 needs 21,189,168 bytes of agent.replay.folder=\S+, but only 1,000,000 are free: "
        r"at most about 47 transitions fit$"
    )
    with pytest.raises(RlkitError, match=words):
        ReplayBuffer(1000, 1, images, ACTIONS, folder=tmp_path)
    ReplayBuffer(40, 1, images, ACTIONS, folder=tmp_path)


def test_a_disk_that_has_filled_up_meanwhile_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not the end of the process, as writing to a mapped file without room would be."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    buffer = ReplayBuffer(10, 1, COUNT, ACTIONS, folder=tmp_path)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RlkitError, match=r"^agent.replay.folder=\S+ cannot hold 64 bytes: No space left on device$"):
        buffer.add(transition(0, truncated=True, next_obs=0, final=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "words"), [("missing", "No such file or directory"), ("file", "Not a directory")])
def test_a_folder_that_cannot_be_used_is_an_error(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RlkitError, match=rf"agent.replay.folder=\S+/{name} .*{words}"):
        ReplayBuffer(10, 1, COUNT, ACTIONS, folder=tmp_path / name)


def assert_same_batches(buffers: list[ReplayBuffer]) -> None:
    """For the same generator, to the last bit."""
    first, *others = (buffer.sample(50, np.random.default_rng(0)) for buffer in buffers)
    for other in others:
        for a, b in zip(first, other, strict=True):
            for part, same in zip(*((x if isinstance(x, tuple) else (x,)) for x in (a, b)), strict=True):
                np.testing.assert_array_equal(part, same)


class Both:
    """Adds to several buffers."""

    def __init__(self, buffers: list[ReplayBuffer]) -> None:
        self.buffers = buffers

    def add(self, step: Transition) -> None:
        for buffer in self.buffers:
            buffer.add(step)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_distinct_rows_are_found_once_each(numbers: list[int]) -> None:
    rows = np.array(numbers)
    first, which = distinct(rows)
    np.testing.assert_array_equal(rows[first][which], rows)
    assert sorted(rows[first]) == sorted(set(numbers))
