"""EnvPool behind `vectorization=envpool`: what it is asked for, and that its resets are never experience."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import rlkit
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector, Step
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.envs.pool import atari_options
from rlkit.errors import RlkitError


class Pushes:
    """Pushes the cart back to where it came from, one environment the other way round."""

    def act(self, obs: Any, *, action_mask: Any = None, explore: bool = True) -> Step:
        action = (obs[0][:, 2] < 0).astype(np.int64)
        action[0] = 1 - action[0]
        return Step(action, action)


class CountingPool:
    """CartPole's spaces; environment e counts its steps from e * 100, and terminates after the third."""

    observation_space, action_space = spaces.Box(-10, 10, (4,), np.float32), spaces.Discrete(2)

    def __init__(self, num_envs: int, **options: Any) -> None:
        self.num_envs, self.options = num_envs, options
        self.count = np.zeros(num_envs, np.float32)
        self.closed = False

    def _obs(self) -> Any:
        return np.repeat((100 * np.arange(self.num_envs, dtype=np.float32) + self.count)[:, None], 4, 1)

    def reset(self) -> Any:
        return self._obs(), {"elapsed_step": self.count}

    def step(self, actions: Any) -> Any:
        resets = self.count == 3
        self.count = np.where(resets, 0, self.count + 1).astype(np.float32)
        nobody = np.zeros(self.num_envs, bool)
        return self._obs(), np.where(resets, 0, 1).astype(np.float32), self.count == 3, nobody, {}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[CountingPool]:
    """What a package that does as EnvPool does has made."""
    made: list[CountingPool] = []

    def make_gymnasium(id: str, num_envs: int, **options: Any) -> CountingPool:
        made.append(CountingPool(num_envs, id=id, **options))
        return made[-1]

    module: Any = ModuleType("envpool")
    module.list_all_envs = lambda: ["CartPole-v1", "MountainCar-v0"]
    module.make_spec = lambda id: SimpleNamespace(_config_keys=["num_envs", "seed", "max_episode_steps"])
    module.make_gymnasium = make_gymnasium
    monkeypatch.setitem(sys.modules, "envpool", module)
    return made


def test_resets_are_no_experience(pools: list[CountingPool]) -> None:
    envs, choice = make_vector_env(EnvFactory("CartPole-v1", {"max_episode_steps": 50}), 2, "envpool")
    assert choice == "EnvPool's vector environment: as asked for"
    collector, buffer = Collector(envs, [2**31 + 5, 8]), RolloutBuffer(12, 2)
    assert [pool.closed for pool in pools] == [True, False]
    options = {"id": "CartPole-v1", "seed": 5, "max_episode_steps": 50}
    assert options.items() <= pools[-1].options.items()
    episodes = collector.collect(Pushes(), buffer, 12)
    stored = buffer.obs[0][:, :, 0]
    steps = [
        (float(before), float(after), bool(over))
        for before, after, over, valid in zip(
            stored[:-1].flat, stored[1:].flat, buffer.terminated.flat, buffer.valid.flat, strict=True
        )
        if valid
    ]
    assert sorted(steps) == sorted(3 * [(e + s, e + s + 1, s == 2) for e in (0.0, 100.0) for s in range(3)])
    assert collector.timesteps == 18
    assert [(e.episode_return, e.length) for e in episodes] == 6 * [(3.0, 3)]
    envs.close()
    assert pools[-1].closed


@pytest.mark.parametrize(
    ("factory", "error"),
    [
        (EnvFactory("Acrobot-v1"), "unknown EnvPool environment 'Acrobot-v1'"),
        (EnvFactory("CartPole-v1", {"sutton_barto_reward": True}), "unknown option of EnvPool's CartPole-v1 'sutton_"),
        (EnvFactory("MountainCar-v0"), "MountainCar-v0 has the observation_space Box.* there, and Box.* in Gymnasium"),
        (EnvFactory("rlkit/ProbeMaskedAction-v0"), "has action masks, which EnvPool does not give"),
    ],
)
def test_what_it_has_not_is_said(pools: list[CountingPool], factory: EnvFactory, error: str) -> None:
    with pytest.raises(RlkitError, match=error):
        make_vector_env(factory, 2, "envpool")


def test_that_it_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(
        RlkitError,
        match=r'needs EnvPool: pip install -e "\.\[envpool\]" in a clone; vectorization=auto needs none',
    ):
        make_vector_env(EnvFactory("CartPole-v1"), 2, "envpool")


def test_atari_games_are_as_they_are_elsewhere() -> None:
    spec = EnvSpec("ALE/Pong-v5", kwargs={"repeat_action_probability": 0.25})
    options = atari_options(spec, {"frameskip": 3, "mode": 1}, training=True)
    assert options.pop("frame_skip") == 3
    assert (options["mode"], options["repeat_action_probability"]) == (1, 0.25)
    assert options["episodic_life"]
    assert options["reward_clip"]
    evaluation = atari_options(spec, {}, training=False)
    assert not evaluation["episodic_life"]
    assert not evaluation["reward_clip"]


class TestTheRealOne:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("envpool")

    def test_every_stored_step_obeys_the_carts_law_of_motion(self) -> None:
        envs, _ = make_vector_env(EnvFactory("CartPole-v1", {"max_episode_steps": 12}), 6, "envpool")
        collector, buffer = Collector(envs, list(range(6))), RolloutBuffer(60, 6)
        episodes = collector.collect(Pushes(), buffer, 60)
        before, after = buffer.obs[0][:-1], buffer.obs[0][1:]
        moved = np.abs(before[..., 0] + np.float32(0.02) * before[..., 1] - after[..., 0]) < 1e-6
        assert moved[buffer.valid].all()
        assert (~moved[~buffer.valid]).mean() > 0.9  # resets do not
        assert (buffer.rewards[buffer.valid] == 1).all()
        assert 12 in [episode.length for episode in episodes]
        assert buffer.truncated.any()
        assert buffer.terminated.any()
        assert collector.timesteps == buffer.valid.sum() < 360
        envs.close()

    def test_the_same_seed_gives_the_same_data(self) -> None:
        found = []
        for seed in (1, 1, 2):
            envs, _ = make_vector_env(EnvFactory("CartPole-v1"), 3, "envpool")
            buffer = RolloutBuffer(20, 3)
            Collector(envs, [seed, 0, 0]).collect(Pushes(), buffer, 20)
            found.append(buffer.obs[0].copy())
            envs.close()
        np.testing.assert_array_equal(found[0], found[1])
        assert (found[0] != found[2]).any()

    def test_a_run_takes_it_and_evaluates_on_gymnasiums(self, tmp_path: Path) -> None:
        result = rlkit.train(
            agent="ppo",
            env="CartPole-v1",
            vectorization="envpool",
            total_timesteps=4096,
            final_eval_episodes=5,
            run_dir=tmp_path / "run",
        )
        assert result.summary["status"] == "finished"
        assert result.summary["eval_return_mean"] > 30

    def test_atari_frames_are_stacked(self) -> None:
        pytest.importorskip("ale_py")
        envs, _ = make_vector_env(EnvFactory("ALE/Pong-v5"), 2, "envpool")
        obs, _ = envs.reset(seed=0)
        assert (obs.shape, obs.dtype) == ((2, 4, 84, 84), np.uint8)
        envs.close()
