"""The episode buffer: whole episodes, each once, in every autoreset mode."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv
from small_envs import Counting

from rlkit.buffers import episodes as module
from rlkit.buffers.episodes import EpisodeBuffer, Episodes
from rlkit.buffers.transition import Transition
from rlkit.collector import Acting, Collector, Step
from rlkit.errors import RlkitError
from rlkit.spaces import Array, Obs


class Numbering(Acting):
    """Counts its vector steps in the actions that it stores."""

    steps = 0

    def act(self, obs: Obs, *, action_mask: Array | None = None, explore: bool = True) -> Step:
        del action_mask, explore
        action = np.full(len(obs[0]), self.steps)
        self.steps += 1
        return Step(action, np.zeros(len(obs[0]), np.int64))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episodes_come_whole_and_once_in_any_autoreset_mode(mode: AutoresetMode) -> None:
    envs = GymSyncVectorEnv([partial(Counting, n) for n in (2, 3, 7)], autoreset_mode=mode)
    collector, buffer, agent = Collector(envs, [0, 1, 2]), EpisodeBuffer(3), Numbering()
    lengths: list[int] = []
    finished = 0
    for _ in range(12):
        finished += len(collector.collect(agent, buffer, 4))
        if len(buffer) < 2:
            continue
        episodes = buffer.take()
        assert len(buffer) == 0
        ends = np.cumsum(episodes.lengths)
        for i, (end, length) in enumerate(zip(ends, episodes.lengths, strict=True)):
            rows = slice(end - length, end)
            np.testing.assert_array_equal(episodes.obs[0][rows, 0], np.arange(length))
            np.testing.assert_array_equal(episodes.rewards[rows], np.arange(1, length + 1))
            np.testing.assert_array_equal(np.diff(episodes.actions[rows]), 1)
            assert episodes.final_obs[0][i, 0] == length
        lengths += episodes.lengths.tolist()
    assert len(lengths) + len(buffer) == finished
    assert set(lengths) == {2, 3, 7}
    assert len(buffer._steps) < 8 + 4  # what no open episode needs is forgotten


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_open_and_finished_episodes_go_on_from_a_state(mode: AutoresetMode) -> None:
    envs = GymSyncVectorEnv([partial(Counting, n) for n in (2, 3, 7)], autoreset_mode=mode)
    collector, buffer, agent = Collector(envs, [0, 1, 2]), EpisodeBuffer(3), Numbering()
    collector.collect(agent, buffer, 10)
    other = EpisodeBuffer(3)
    other.load_state_dict(buffer.state_dict())
    for steps in (0, 9):
        for one, where in ((other, deepcopy(collector)), (buffer, collector)):
            where.collect(deepcopy(agent), one, steps)
        np.testing.assert_equal(other.take(), buffer.take())


def transition(num_envs: int, **fields: Any) -> Transition:
    obs = (np.zeros((num_envs, 1), np.float32),)
    no = np.zeros(num_envs, np.bool_)
    step = Transition(obs, np.zeros(num_envs, np.int64), np.ones(num_envs), no, no, obs, {}, ~no, None)
    return step._replace(**fields)


def test_terminated_counts_where_both_are_said() -> None:
    buffer = EpisodeBuffer(3)
    buffer.add(transition(3, terminated=np.array([1, 0, 1], bool), truncated=np.array([0, 1, 1], bool)))
    np.testing.assert_array_equal(buffer.take().terminated, [True, False, True])


def test_what_the_environment_overwrites_is_copied() -> None:
    buffer, reward, terminated = EpisodeBuffer(1), np.array([1.0]), np.array([True])
    buffer.add(transition(1, reward=reward, terminated=terminated))
    reward[:], terminated[:] = 5.0, False
    episodes = buffer.take()
    assert episodes.rewards.tolist() == [1.0]
    assert episodes.terminated.tolist() == [True]


def test_masks_travel_with_their_steps() -> None:
    buffer = EpisodeBuffer(2)
    masks = [np.array([[True, False], [True, True]]), np.array([[False, True], [True, False]])]
    for mask, over in zip(masks, (False, True), strict=True):
        buffer.add(transition(2, action_mask=mask, terminated=np.full(2, over)))
    found = buffer.take().action_masks
    assert found is not None
    np.testing.assert_array_equal(found, [masks[0][0], masks[1][0], masks[0][1], masks[1][1]])


def test_rows_and_time_steps_turn_into_each_other() -> None:
    nothing = np.zeros(0)
    episodes = Episodes((), nothing, nothing, None, np.array([1, 3, 2]), nothing, ())
    rows = np.array([10, 20, 21, 22, 30, 31])
    table = episodes.by_time_step(rows)
    np.testing.assert_array_equal(table, [[10, 20, 30], [0, 21, 31], [0, 22, 0]])
    np.testing.assert_array_equal(episodes.by_row(table), rows)


def test_an_endless_episode_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_EPISODE", 50)
    buffer = EpisodeBuffer(2)

    def fill(buffer: EpisodeBuffer, steps: int) -> None:
        for _ in range(steps):
            buffer.add(transition(2, terminated=np.array([True, False])))

    with pytest.raises(RlkitError, match="an episode has not ended after 50 steps.*agent=ppo or agent=a2c"):
        fill(buffer, 60)
