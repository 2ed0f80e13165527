"""An agent's defaults must not contradict each other, whatever the number of environments is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rlkit
from rlkit.networks.features import encoder_notes
from rlkit.networks.heads import action_notes
from rlkit.setting import NetworkConfig

SHORT: dict[str, Any] = {"final_eval_episodes": 0, "eval_interval": 0, "compute": "auto", "logger": []}


@pytest.mark.parametrize(
    ("agent", "fields", "rollout"),
    [
        ("ppo", {}, "transitions, fewer than agent.minibatch_size=256"),
        ("ppo", {"agent.num_steps": 5, "agent.minibatch_size": 6}, "agent.num_steps=5 x num_envs=1 = 5 transitions"),
        ("trpo", {"agent.num_steps": 16}, "agent.num_steps=16 x num_envs=1 = 16 transitions"),
        ("ppo", {"agent.num_steps": 8, "agent.minibatch_size": 8}, None),
    ],
)
def test_a_rollout_smaller_than_a_minibatch_is_one_minibatch(
    agent: str, fields: dict[str, Any], rollout: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"env": "CartPole-v1", "num_envs": 1, "total_timesteps": 256, "run_dir": tmp_path / "run"}
    result = rlkit.train(agent=agent, **{**given, **SHORT, **fields})
    assert result.summary["status"] == "finished"
    told = capsys.readouterr().err
    assert ("each rollout is one minibatch" in told) == (rollout is not None)
    assert rollout is None or rollout in told


@pytest.mark.parametrize(
    ("timesteps", "starts", "told", "learned"),
    [(64, 1000, True, False), (64, 65, True, False), (64, 64, True, True), (64, 32, False, True)],
)
def test_a_run_that_ends_before_learning_starts_says_so_at_its_beginning_and_end(
    timesteps: int, starts: int, told: bool, learned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"env": "CartPole-v1", "num_envs": 1, "total_timesteps": timesteps, "run_dir": tmp_path / "run"}
    rlkit.train(agent="dqn", **{**given, **SHORT, "agent.learning_starts": starts})
    lines = capsys.readouterr().err
    assert (f"in its first {starts:,} timesteps, and total_timesteps={timesteps}: next to nothing" in lines) == told
    assert ("nothing was learned: the agent only collects" in lines) != learned


@pytest.mark.parametrize(
    ("low", "high", "network", "words"),
    [
        (10, 100, {}, "N(0, 1²), of which 0% lie within the bounds [10, 100]; network.squash=true"),
        (-0.01, 0.01, {}, "N(0, 1²), of which 1% lie within the bounds [-0.01, 0.01]"),
        (-1000, 1000, {}, "N(0, 1²), of which 100% lie within the bounds [-1000, 1000]"),
        (50, np.inf, {}, "of which 0% lie within the bounds [50, inf]; bounds around zero"),
        ([-1, 3], [1, 4], {}, "of which 0% lie within the bounds [3, 4]"),
        (10, 100, {"squash": True}, None),
        (-0.01, 0.01, {"log_std_init": -5.0}, None),
        (-1, 1, {}, None),
        (-2, 2, {}, None),
        (0, 1, {}, None),
        (-np.inf, np.inf, {}, None),
    ],
)
def test_bounds_that_the_first_actions_miss_are_told(low: Any, high: Any, network: Any, words: str | None) -> None:
    space = spaces.Box(np.array(low, np.float32, ndmin=1), np.array(high, np.float32, ndmin=1))
    notes = action_notes(space, NetworkConfig(**network))
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]


@pytest.mark.parametrize(
    ("space", "encoder", "told"),
    [
        (spaces.Box(0, 1, (4,)), "cnn", True),
        (spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 1, (4,))}), "minatar", True),
        (spaces.Box(0, 1, (4,)), "auto", False),
        (spaces.Box(0, 1, (4,)), "mlp", False),
        (spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 1, (12, 12))}), "cnn", False),
    ],
)
def test_an_encoder_of_images_without_an_image_is_told(space: spaces.Space[Any], encoder: str, told: bool) -> None:
    assert bool(encoder_notes(space, encoder)) == told


def test_spaces_that_are_no_boxes_of_floats_have_no_note() -> None:
    assert not action_notes(spaces.Discrete(3), NetworkConfig())
    assert not action_notes(spaces.Box(10, 100, (1,), np.int64), NetworkConfig())
