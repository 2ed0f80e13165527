"""Evaluations within bounds: of seeds, of steps, of environments, and of the trouble that closing one makes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stubborn_envs

import rlkit
from rlkit.config import TrainConfig
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.envs.lifetime import close_all, has_time_limit
from rlkit.run import Result
from rlkit.system.seeding import env_seeds, episode_seed, run_seeds

SMALL: dict[str, Any] = {"total_timesteps": 128, "num_envs": 1, "agent.num_steps": 32, "agent.minibatch_size": 32}


def train(run_dir: Path, name: str, **settings: Any) -> Result:
    return rlkit.train("ppo", f"stubborn_envs:stubborn/{name}-v0", run_dir=run_dir, **{**SMALL, **settings})


def test_seeds_have_31_bits_everywhere() -> None:
    for seed in range(1000):
        seeds = run_seeds(seed)
        first = [episode_seed(number, 0) for number in (seeds.evaluation, seeds.final_evaluation)]
        assert all(0 <= number < 2**31 for number in [*first, *env_seeds(seeds.envs, 3)])
    assert [episode_seed(2**31 - 2, episode) for episode in range(3)] == [2**31 - 2, 2**31 - 1, 0]
    assert [episode_seed(5, episode) for episode in range(3)] == [5, 6, 7]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])  # of these, two had a large seed in one of the evaluations
def test_an_environment_with_small_seeds_is_evaluated(seed: int, tmp_path: Path) -> None:
    result = train(tmp_path / "run", "SmallSeeds", seed=seed, eval_episodes=2, final_eval_episodes=2)
    assert result.summary["eval_return_mean"] == 10
    for large in (2**31 - 1, 2**32 - 1, 2**40):
        rlkit.evaluate_policy(result.agent, "stubborn_envs:stubborn/SmallSeeds-v0", 3, seed=large)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"total_timesteps": 2000}, 1000),
        ({"total_timesteps": 100_000}, 10_000),
        ({"total_timesteps": 10_000_000}, 100_000),
        ({"total_timesteps": 100_000, "eval_interval": 5000}, 5000),
        ({"total_timesteps": 50_000, "eval_interval": 0}, 50_000),
        ({"total_timesteps": 2000, "eval_max_steps": 7}, 7),
        ({"total_timesteps": 2000, "eval_max_steps": 10**6}, 10**6),
    ],
)
def test_the_limit_of_an_evaluations_episode(settings: dict[str, Any], limit: int) -> None:
    assert TrainConfig(**settings).max_eval_episode_steps == limit


def test_evaluations_of_an_endless_environment_are_bounded_and_remarked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = tmp_path / "steps"
    settings = {"eval_episodes": 2, "final_eval_episodes": 3, "eval_interval": 64, "env_kwargs": {"steps": str(steps)}}
    train(tmp_path / "run", "Endless", **settings)
    most = 128 + (2 * 2 + 3) * 1000
    assert most <= len(steps.read_text()) <= most + 2000  # and a few hundred to try the environment out
    err = capsys.readouterr().err
    words = "evaluation episodes did not end, and were cut after 1,000 steps: the environment sets no time limit"
    assert err.count(f"2 of 2 {words}") == 2
    assert err.count(f"3 of 3 {words}") == 1


def test_a_limit_of_ones_own_and_one_that_the_environment_says(tmp_path: Path) -> None:
    settings = {"eval_episodes": 1, "final_eval_episodes": 2, "eval_interval": 0, "eval_max_steps": 30}
    steps = str(tmp_path / "steps")
    for name, limit, length in (("Endless", None, 30), ("Endless", 20, 20), ("Limited", None, 1500)):
        result = train(tmp_path / f"{name} {limit}", name, **settings, env_kwargs={"steps": steps, "limit": limit})
        assert result.summary["eval_return_mean"] == length
    assert has_time_limit(EnvFactory("CartPole-v1")())
    assert not has_time_limit(EnvFactory("CliffWalking-v1")())
    assert has_time_limit(EnvFactory("CliffWalking-v1", {"max_episode_steps": 9})())


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"eval_interval": 0, "final_eval_episodes": 0}, 1),
        ({"eval_interval": 0, "final_eval_episodes": 3}, 3),
        ({"eval_interval": 0, "final_eval_episodes": 30}, 10),
        ({"eval_interval": 64, "eval_episodes": 2, "final_eval_episodes": 0}, 3),
        ({"eval_interval": 64, "eval_episodes": 2, "final_eval_episodes": 4, "num_envs": 2}, 4),
    ],
)
def test_there_are_no_more_environments_than_are_needed(settings: dict[str, int], most: int, tmp_path: Path) -> None:
    stubborn_envs.Counted.alive = stubborn_envs.Counted.most = 0
    train(tmp_path / "run", "Counted", vectorization="sync", **settings)
    assert (stubborn_envs.Counted.most, stubborn_envs.Counted.alive) == (most, 0)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_cannot_be_closed_loses_nothing(
    vectorization: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"num_envs": 2, "eval_episodes": 2, "final_eval_episodes": 2}
    result = train(tmp_path / "run", "CannotClose", vectorization=vectorization, **settings)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    err = capfd.readouterr().err
    assert "remark: env stubborn/CannotClose-v0: close raised ValueError: already closed" in err
    assert "Traceback" not in err
    rlkit.evaluate_policy(result.agent, "stubborn_envs:stubborn/CannotClose-v0", 2)
    assert "close raised ValueError: already closed in 2 environments; the results are whole" in capfd.readouterr().err


def test_the_first_error_is_the_one_that_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Both(stubborn_envs.CannotClose):
        def step(self, action: Any) -> Any:
            raise KeyError("no such joint")

    import gymnasium as gym

    gym.register("stubborn/Both-v0", Both)  # type: ignore[arg-type]
    with pytest.raises(rlkit.RlkitError, match="step raised KeyError: 'no such joint'"):
        rlkit.train("ppo", "stubborn/Both-v0", run_dir=tmp_path / "run", **SMALL)
    assert "close raised ValueError" in capsys.readouterr().err


class Unnamed:
    spec = None

    @property
    def unwrapped(self) -> Any:
        return self

    def close(self) -> None:
        raise ValueError("± 1 −")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_closing_raised_is_told_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding=encoding))
    close_all([Unnamed()])
    assert raw.getvalue().decode(encoding).startswith("remark: env Unnamed: close raised ValueError: ")
    monkeypatch.setattr(sys, "stderr", None)
    close_all([Unnamed()])


def test_closing_goes_on_after_one_that_raises() -> None:
    stubborn_envs.Counted.alive = 0
    envs = [stubborn_envs.CannotClose(), stubborn_envs.Counted(), stubborn_envs.CannotClose(), stubborn_envs.Counted()]
    close_all(envs)
    assert stubborn_envs.Counted.alive == 0
    vector, _ = make_vector_env(EnvFactory("stubborn_envs:stubborn/CannotClose-v0"), 2, "sync")
    vector.reset(seed=0)
    vector.step(np.zeros(2, np.int64))
    vector.close()
    assert vector.closed
