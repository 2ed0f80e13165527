"""overlap=true: who acts with which parameters, what is learned from, and that runs end well."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_envs import Counting
from training import assert_same_parameters

import rlkit
import rlkit.run
from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.buffers.replay import ReplayBuffer
from rlkit.collector import Collector
from rlkit.config import TrainConfig
from rlkit.envs.vector import SyncVectorEnv
from rlkit.errors import RlkitError
from rlkit.overlap import OverlappingTrainer
from rlkit.progress import Progress
from rlkit.run_folder import RunFolder

SMALL = DQNConfig(num_steps=8, gradient_steps=2, learning_starts=16, minibatch_size=16, buffer_size=1000)


def settings(**more: Any) -> dict[str, Any]:
    agent = {f"agent.{name}": getattr(SMALL, name) for name in ("num_steps", "gradient_steps", "learning_starts")}
    quick = {"eval_interval": 0, "final_eval_episodes": 0, "checkpoint_interval": 0, "vectorization": "sync"}
    return {"agent": "dqn", "env": "CartPole-v1", "tuned": False, "num_envs": 2, "overlap": True} | agent | quick | more


def test_the_same_seed_gives_the_same_run_and_not_that_without_overlap(tmp_path: Path) -> None:
    first, second, plain = (
        rlkit.train(run_dir=tmp_path / str(i), **settings(total_timesteps=320, overlap=i < 2)).agent for i in range(3)
    )
    assert_same_parameters(first, second)
    online = [torch.cat([p.reshape(-1) for p in agent.model.parameters()]) for agent in (first, plain)]
    assert (online[0] != online[1]).any()


def test_actions_are_one_update_late_and_so_is_what_is_learned_from(tmp_path: Path) -> None:
    seen: list[tuple[str, int, float]] = []  # what happens, by whom: the buffer's size, and a parameter

    class Learner(DQN):
        def update(self, buffer: ReplayBuffer, progress: float) -> dict[str, float]:
            before = self.number()
            metrics = super().update(buffer, progress)
            assert threading.current_thread() is not threading.main_thread()
            seen.append(("update", len(buffer), before))
            return metrics

        def number(self) -> float:
            return float(next(self.network.parameters()).detach().reshape(-1)[0])

    class Actor(Learner):
        def act(self, obs: Any, **kwargs: Any) -> Any:
            assert threading.current_thread() is threading.main_thread()
            seen.append(("act", -1, self.number()))
            return super().act(obs, **kwargs)

    envs = SyncVectorEnv([Counting, Counting])
    spaces = envs.single_observation_space, envs.single_action_space
    learner, actor = (kind(SMALL, *spaces, num_envs=2, seed=seed) for seed, kind in enumerate((Learner, Actor)))
    config = TrainConfig(agent=SMALL, total_timesteps=80, overlap=True, eval_interval=0, checkpoint_interval=0)
    trainer = OverlappingTrainer(
        actor,
        *(config, learner, learner.make_buffer(2), Collector(envs, [0, 1]), RunFolder(tmp_path), []),
        *(Progress(80, silent=True), lambda episodes: None),
    )
    trainer.train()
    updates = [entry for entry in seen if entry[0] == "update"]
    assert [size for _, size, _ in updates] == [0, 16, 32, 48, 64]
    acted = [number for kind, _, number in seen if kind == "act"]
    assert len(acted) == 5 * 8
    by_round = [set(acted[8 * k : 8 * k + 8]) for k in range(5)]
    assert by_round == [{before} for _, _, before in updates]  # as it was when the update beside it began
    assert updates[0][2] == updates[1][2] != updates[2][2]  # the first one had nothing to learn from
    assert len(trainer.buffer) == 80


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("default:.*torch.jit.script_method:DeprecationWarning")  # the compiler's, when imported
def test_of_two_threads_only_the_one_that_learns_runs_what_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computes = []

    class Looked(OverlappingTrainer):
        def __init__(self, actor: Any, *args: Any) -> None:
            super().__init__(actor, *args)
            computes.append((actor.compute, self.agent.compute))

    monkeypatch.setattr(rlkit.run, "OverlappingTrainer", Looked)
    for compute in ("compile", "numpy"):
        more: dict[str, Any] = {"compute": compute, "agent.learning_starts": 1000}
        rlkit.train(run_dir=tmp_path / compute, **settings(total_timesteps=16, **more))
    assert computes == [("torch", "compile"), ("numpy", "numpy")]


def test_an_interrupt_waits_for_the_update_and_an_updates_error_is_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, original = threading.Event(), DQN.update

    def slow(self: DQN, buffer: ReplayBuffer, progress: float) -> dict[str, float]:
        running.set()
        threading.Event().wait(0.2)
        metrics = original(self, buffer, progress)
        running.clear()
        return metrics

    def interrupted(self: Collector, *args: Any) -> Any:
        assert running.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(DQN, "update", slow)
    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rlkit.train(run_dir=tmp_path / "a", **settings(total_timesteps=320))
    assert not running.is_set()
    assert (tmp_path / "a" / "checkpoints" / "last" / "model.safetensors").exists()

    def broken(self: DQN, buffer: ReplayBuffer, progress: float) -> dict[str, float]:
        return {"train/value_loss": np.nan}

    monkeypatch.setattr(DQN, "update", broken)
    with pytest.raises(RlkitError, match="diverged"):
        rlkit.train(run_dir=tmp_path / "b", **settings(total_timesteps=320))


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (TrainConfig(agent=PPOConfig(), overlap=True), "overlap=true is for agent=dqn, .*, not for ppo"),
        (TrainConfig(agent=SMALL, overlap=True, profile=True), "overlap=true and profile=true do not go together"),
    ],
)
def test_what_it_does_not_go_with_is_said(config: TrainConfig, error: str) -> None:
    with pytest.raises(RlkitError, match=error):
        config.validate()


def test_it_is_not_for_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in (("RANK", "0"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RlkitError, match="overlap=true is for one process"):
        TrainConfig(agent=SMALL, overlap=True).validate()
