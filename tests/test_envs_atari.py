"""The Atari stack: the same frames from single environments and from ale-py's vector environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlkit.envs import EnvFactory, make_env, make_vector_env
from rlkit.envs.atari import NOOP_MAX

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

BREAKOUT = "ALE/Breakout-v5"
STEADY = {"repeat_action_probability": 0.0}


@pytest.fixture
def no_noops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two draw the number of no-ops from different generators."""
    monkeypatch.setattr("rlkit.envs.atari.NOOP_MAX", 0)
    assert NOOP_MAX == 30


@pytest.mark.usefixtures("no_noops")
@pytest.mark.parametrize("training", [True, False])
def test_native_and_single_environments_give_the_same_data(training: bool) -> None:
    factory = EnvFactory(BREAKOUT, STEADY, training=training)
    native, sentence = make_vector_env(factory, 2)
    assert sentence == "native vector environment: ale-py steps its environments in threads"
    single = make_env(factory)
    batch, _ = native.reset(seed=0)
    obs, _ = single.reset(seed=0)
    ends = points = 0
    rng = np.random.default_rng(0)
    for _ in range(400):
        np.testing.assert_array_equal(batch[0], obs)
        action = int(rng.integers(4))
        batch, rewards, terminated, truncated, _ = native.step(np.array([action, action]))
        obs, *outcome, _ = single.step(action)
        assert outcome == [rewards[0], terminated[0], truncated[0]]
        points += rewards[0]
        if terminated[0]:
            ends += 1
            obs, _ = single.reset()
    assert points > 0
    assert ends == (9 if training else 1)  # lives in training, games in evaluation


@pytest.mark.usefixtures("no_noops")
def test_observations_are_four_grey_frames_of_four_steps() -> None:
    env = make_env(EnvFactory(BREAKOUT, STEADY))
    assert env.observation_space.shape == (4, 84, 84)
    assert env.observation_space.dtype == np.uint8
    first, info = env.reset(seed=0)
    assert not first[:3].any()
    assert first[3].any()
    obs, _, _, _, after = env.step(1)
    np.testing.assert_array_equal(obs[2], first[3])
    assert after["frame_number"] - info["frame_number"] == 4


def game_lives(training: bool) -> list[tuple[int, bool]]:
    """(lives left, terminated) of the steps of a game of Breakout that nobody plays, where either changes."""
    env = make_env(EnvFactory(BREAKOUT, training=training))
    _, info = env.reset(seed=0)
    found: list[tuple[int, bool]] = []
    while info["lives"] > 0:
        lives = info["lives"]
        _, _, terminated, _, info = env.step(1)
        if terminated or info["lives"] != lives:
            found.append((info["lives"], terminated))
        if terminated and info["lives"] > 0:
            _, info = env.reset()
    return found


def test_an_episode_is_a_life_in_training_and_a_game_in_evaluation() -> None:
    assert game_lives(training=True) == [(4, True), (3, True), (2, True), (1, True), (0, True)]
    assert game_lives(training=False) == [(4, False), (3, False), (2, False), (1, False), (0, True)]


def test_a_seed_starts_a_new_game_and_the_end_of_a_game_too() -> None:
    env = make_env(EnvFactory(BREAKOUT))
    _, info = env.reset(seed=0)
    while info["lives"] == 5:
        *_, info = env.step(1)
    assert env.reset()[1]["lives"] == 4
    assert env.reset(seed=0)[1]["lives"] == 5


def test_rewards_are_signs_in_training_only() -> None:
    def rewards(training: bool) -> set[float]:
        env = make_env(EnvFactory("ALE/MsPacman-v5", training=training))
        env.reset(seed=0)
        env.action_space.seed(0)
        return {float(env.step(env.action_space.sample())[1]) for _ in range(150)}

    assert rewards(training=True) == {0.0, 1.0}
    assert max(rewards(training=False)) >= 10.0


def test_without_preprocessing_atari_is_as_it_comes() -> None:
    factory = EnvFactory("ALE/Pong-v5", preprocessing="none")
    env: Any = make_env(factory)
    assert env.observation_space.shape == (210, 160, 3)
    envs, sentence = make_vector_env(factory, 1)
    assert sentence.startswith("sync")
    assert envs.single_observation_space == env.observation_space


def test_the_stack_is_for_older_atari_ids_on_request() -> None:
    env = make_env(EnvFactory("PongNoFrameskip-v4", preprocessing="atari"))
    assert env.observation_space.shape == (4, 84, 84)
