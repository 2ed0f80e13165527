"""An agent's defaults must not contradict each other, whatever the number of environments is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rlkit

SHORT: dict[str, Any] = {"final_eval_episodes": 0, "eval_interval": 0, "compute": "numpy", "logger": []}


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
    ("timesteps", "starts", "told"), [(64, 1000, True), (64, 65, True), (64, 64, False), (64, 32, False)]
)
def test_a_run_that_ends_before_learning_starts_says_so(
    timesteps: int, starts: int, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"env": "CartPole-v1", "num_envs": 1, "total_timesteps": timesteps, "run_dir": tmp_path / "run"}
    rlkit.train(agent="dqn", **{**given, **SHORT, "agent.learning_starts": starts})
    words = f"agent.learning_starts={starts} is more than total_timesteps={timesteps}"
    assert (words in capsys.readouterr().err) == told
