"""Whole runs: what they leave behind, that a seed repeats them, and how they end when they are disturbed."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from stable_baselines3.common.evaluation import evaluate_policy as sb3_evaluate_policy
from waiting import PATIENCE, rows_in, wait_until

import rlkit
from rlkit.agents.ppo import PPO
from rlkit.errors import RlkitError
from rlkit.run import Result
from rlkit.runs.run_folder import LostFolder
from rlkit.trainer import Trainer

SMALL: dict[str, Any] = {
    "total_timesteps": 2048,
    "num_envs": 4,
    "vectorization": "sync",
    "eval_episodes": 2,
    "final_eval_episodes": 3,
    "agent.num_steps": 32,
    "agent.minibatch_size": 64,
}
MODEL = "checkpoints/last/model.safetensors"


def small_run(run_dir: Path, **settings: Any) -> Result:
    return rlkit.train("ppo", "CartPole-v1", run_dir=run_dir, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return small_run(tmp_path_factory.mktemp("runs") / "finished", seed=5)


def test_evaluations_that_do_not_end_are_cut_and_the_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = {"total_timesteps": 64, "eval_interval": 64, "eval_episodes": 2, "final_eval_episodes": 0}
    rlkit.train("sarsa", "CliffWalking-v1", run_dir=tmp_path / "run", eval_max_steps=30, **fields)
    words = "2 of 2 evaluation episodes did not end, and were cut after 30 steps: the environment sets no time limit"
    assert words in capsys.readouterr().err


def test_the_run_folder_holds_what_it_should(finished: Result) -> None:
    summary = json.loads((finished.run_dir / "summary.json").read_text())
    assert summary == finished.summary
    expected = "agent env seed device total_timesteps episodes wall_time_s steps_per_second eval_return_mean"
    assert set(f"{expected} eval_return_std eval_episodes versions status".split()) <= set(summary)
    assert summary["status"] == "finished"
    assert summary["total_timesteps"] == 2048
    assert summary["eval_episodes"] == 3
    assert (summary["agent"], summary["env"], summary["seed"]) == ("ppo", "CartPole-v1", 5)
    with (finished.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["time/total_timesteps"]) == 2048
    for key in ("rollout/episode_return", "rollout/episode_length", "train/policy_loss", "train/value_loss"):
        assert np.isfinite(float(rows[0][key] or rows[1][key]))
    for key in ("train/entropy", "train/approx_kl", "time/steps_per_second"):
        assert float(rows[0][key]) > 0
    evaluated = [row for row in rows if row["eval/return_mean"]]
    assert len(evaluated) == 10  # one in every tenth of the run
    for name in (".hydra/config.yaml", ".hydra/overrides.yaml", MODEL, "checkpoints/best/agent.json"):
        assert (finished.run_dir / name).is_file()


def test_a_run_that_is_not_verbose_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small_run(tmp_path / "run", verbose=False, total_timesteps=256)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_run_can_end_after_so_many_episodes(tmp_path: Path) -> None:
    result = small_run(tmp_path / "run", total_episodes=30, log_interval=1, final_eval_episodes=0)
    assert 30 <= result.summary["episodes"] < 50
    assert result.summary["total_timesteps"] < 2048
    with (result.run_dir / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert int(rows[-1]["time/total_episodes"]) == result.summary["episodes"]
    assert int(rows[-1]["time/total_timesteps"]) == result.summary["total_timesteps"]
    # Schedules follow the episodes: the rate of a row was chosen when the row before was written.
    for before, row in pairwise(rows):
        share = int(before["time/total_episodes"]) / 30
        assert float(row["train/learning_rate"]) == pytest.approx(1e-3 * (1 - share))


def test_rows_hold_the_newest_of_each_metric_since_the_row_before(tmp_path: Path) -> None:
    """REINFORCE's updates have nothing to say while they wait for episodes to end."""
    fields: dict[str, Any] = {"agent.num_steps": 1, "agent.episodes_per_update": 1, "num_envs": 1, "total_episodes": 20}
    result = rlkit.train("reinforce", run_dir=tmp_path / "run", log_interval=100, final_eval_episodes=0, **fields)
    with (result.run_dir / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["time/steps_per_second"]]
    assert len(rows) > 2
    assert all(bool(row["train/policy_loss"]) == bool(row["rollout/episode_return"]) for row in rows)
    assert rows[-1]["train/policy_loss"]


def test_a_loaded_agent_does_what_the_saved_one_did(finished: Result) -> None:
    loaded = rlkit.load(finished.run_dir / "checkpoints" / "last")
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], finished.agent.predict(obs)[0])
    assert isinstance(loaded, PPO)
    assert isinstance(finished.agent, PPO)
    np.testing.assert_array_equal(loaded.value(obs), finished.agent.value(obs))


def test_sb3_evaluates_a_loaded_agent_like_us(finished: Result) -> None:
    import gymnasium as gym
    from stable_baselines3.common.monitor import Monitor

    loaded = rlkit.load(finished.run_dir)
    env = Monitor(gym.make("CartPole-v1"))
    env.reset(seed=0)
    mean, _ = sb3_evaluate_policy(loaded, env, n_eval_episodes=5)
    ours = rlkit.evaluate_policy(loaded, "CartPole-v1", episodes=5)
    assert isinstance(mean, float)
    assert 8 < mean <= 500
    assert 8 < ours.return_mean <= 500


def test_a_seed_repeats_a_run_and_another_does_not(finished: Result, tmp_path: Path) -> None:
    model = load_file(finished.run_dir / MODEL)
    again = load_file(small_run(tmp_path / "again", seed=5, eval_interval=0, vectorization="async").run_dir / MODEL)
    other = load_file(small_run(tmp_path / "other", seed=6).run_dir / MODEL)
    for name, array in model.items():  # evaluations and worker processes change nothing
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert any((other[name] != array).any() for name, array in model.items())


def test_a_run_does_not_overwrite_another(finished: Result) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.run_dir.rglob("*")}
    with pytest.raises(RlkitError, match="already holds a run"):
        small_run(finished.run_dir)
    assert {file: file.stat().st_mtime_ns for file in finished.run_dir.rglob("*")} == before


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match=r"training diverged after \d+ timesteps: train/\w+ is (nan|inf)"):
        small_run(
            tmp_path / "run",
            checkpoint_interval=128,
            **{"agent.learning_rate": 1e38, "agent.learning_rate_schedule": "constant"},
        )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_an_environment_that_breaks_in_training_ends_the_run_in_one_line(tmp_path: Path) -> None:
    settings = {**SMALL, "env_kwargs": {"fault": "late step"}}
    with pytest.raises(RlkitError, match=r"environment user_envs:user/Bad-v0 raised in step") as caught:
        rlkit.train("ppo", "user_envs:user/Bad-v0", run_dir=tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"


@pytest.mark.parametrize(
    ("number", "vectorization"),
    [(signal.SIGINT, "sync"), (signal.SIGINT, "async"), (signal.SIGTERM, "async"), (signal.SIGHUP, "async")],
)
def test_an_interrupted_run_leaves_a_usable_checkpoint(
    number: signal.Signals, vectorization: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "rlkit", "env=CartPole-v1", "total_timesteps=1000000", "num_envs=2"]
    command += ["agent.minibatch_size=64", "log_interval=1"]
    command += [f"vectorization={vectorization}", f"hydra.run.dir={run_dir}"]
    metrics = run_dir / "metrics.csv"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or rows_in(metrics) > 0)
            if number == signal.SIGHUP:
                os.killpg(process.pid, number)  # as a terminal that is lost does: to the workers too
            else:
                process.send_signal(number)
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert str(run_dir / "checkpoints" / "last") in output
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "interrupted"
    assert rlkit.load(run_dir).predict(np.zeros(4, np.float32))[0] in (0, 1)


def disturbed_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, disturb: Callable[[], object], **settings: Any
) -> Result:
    """A small run of 16 updates, in whose fourth `disturb` is called."""
    updates = itertools.count()
    advance = Trainer.advance

    def disturbed(self: Trainer) -> Any:
        if next(updates) == 3:
            disturb()
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", disturbed)
    return small_run(run_dir, log_interval=1, **settings)


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_a_run_whose_folder_is_removed_says_so_and_still_saves_the_agent(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"

    def remove() -> None:
        if how == "moved":
            run_dir.rename(tmp_path / "elsewhere")
            return
        shutil.rmtree(run_dir)
        if how == "replaced":
            (run_dir / ".hydra").mkdir(parents=True)
            (run_dir / ".lock").touch()

    with pytest.raises(LostFolder, match=rf"^the run folder {run_dir} was removed during the run") as caught:
        disturbed_run(run_dir, monkeypatch, remove)
    assert "\n" not in str(caught.value)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["total_timesteps"]) == ("failed", 4 * 4 * 32)
    assert rlkit.load(run_dir).predict(np.zeros(4, np.float32))[0] in (0, 1)
    for line in capsys.readouterr().err.splitlines():
        if line.startswith(("last checkpoint:", "best checkpoint:", "metrics:", "summary:")):
            assert Path(line.split(maxsplit=2 if "checkpoint" in line else 1)[-1]).exists(), line


def test_files_that_are_removed_from_a_run_folder_are_made_again_or_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"

    def remove() -> None:
        (run_dir / "metrics.csv").unlink()
        shutil.rmtree(run_dir / "checkpoints" / "best", ignore_errors=True)

    result = disturbed_run(run_dir, monkeypatch, remove, eval_interval=128, total_timesteps=1024)
    assert result.summary["status"] == "finished"
    for line in capsys.readouterr().err.splitlines():
        if line.startswith(("last checkpoint:", "best checkpoint:", "metrics:", "summary:")):
            assert Path(line.split(maxsplit=2 if "checkpoint" in line else 1)[-1]).exists(), line
    with (run_dir / "metrics.csv").open() as file:
        steps = [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]
    assert (steps[0], steps[-1]) == (4 * 128, 1024)


def test_importing_rlkit_does_not_import_torch() -> None:
    code = "import sys, rlkit, rlkit.agents, rlkit.envs, rlkit.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
