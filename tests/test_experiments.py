"""The presets in conf/experiment: the book's constants, what they beat and lose to, that they train, and own ones."""

from __future__ import annotations

import csv
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from training import parameters

import rlkit
from rlkit.agents.dqn import DQNConfig
from rlkit.cli.composition import compose
from rlkit.setting import NetworkConfig

BOOK: dict[str, dict[str, Any]] = {
    "book_reinforce": {
        "agent.name": "reinforce",
        "agent.baseline": "none",
        "agent.learning_rate": 2e-4,
        "agent.gamma": 0.98,
        "agent.episodes_per_update": 1,
        "agent.minibatch_size": 1,
        "network.hidden_sizes": [128],
        "total_episodes": 400,
    },
    "book_ppo2": {
        "agent.name": "ppo",
        "agent.objective": "clip",
        "agent.learning_rate": 1e-3,
        "agent.critic_learning_rate": 3e-3,
        "agent.gamma": 0.98,
        "agent.gae_lambda": 1.0,
        "agent.clip_coef": 0.2,
        "agent.minibatch_size": 32,
        "agent.num_epochs": 10,
        "agent.normalize_advantages": False,
        "agent.max_grad_norm": None,
        "network.hidden_sizes": [100],
        "total_episodes": 500,
    },
    "book_dqn": {
        "agent.name": "dqn",
        "agent.learning_rate": 2e-4,
        "agent.gamma": 0.99,
        "agent.replay.size": 50_000,
        "agent.learning_starts": 2000,
        "agent.minibatch_size": 32,
        "agent.gradient_steps": 10,
        "agent.gradient_steps_per": "episode",
        "agent.reward_scale": 0.01,
        "agent.loss": "huber",
        "agent.max_grad_norm": None,
        "network.hidden_sizes": [256, 256],
        "total_episodes": 10_000,
    },
}
ALL = {
    "env.id": "CartPole-v1",
    "num_envs": 1,
    "network.activation": "relu",
    "network.initialization": "he_normal",
    "agent.learning_rate_schedule": "constant",
}


@pytest.mark.parametrize("name", BOOK)
def test_a_preset_has_the_books_constants(name: str) -> None:
    config = compose([f"experiment={name}"])
    expected = BOOK[name] | ALL
    assert {key: attrgetter(key)(config) for key in expected} == expected
    # The episodes end the run, not the timesteps: CartPole-v1's are at most 500 steps long.
    assert config.total_episodes is not None
    assert config.total_timesteps == 500 * config.total_episodes


def test_dqns_schedules_by_episodes_are_the_books() -> None:
    agent = compose(["experiment=book_dqn"]).agent
    assert agent.target.interval == 20 * agent.gradient_steps
    for episode in (0, 200, 1000, 1400, 5000):
        share = min(1, episode / agent.epsilon.episodes)
        epsilon = agent.epsilon.start + share * (agent.epsilon.end - agent.epsilon.start)
        assert epsilon == pytest.approx(max(0.01, 0.08 - 0.01 * (episode / 200)))


def test_the_command_line_beats_an_experiment_which_beats_tuned_values() -> None:
    tuned = compose(["agent=dqn"]).agent
    preset = compose(["experiment=book_dqn"]).agent
    given = compose(["experiment=book_dqn", "agent.learning_rate=0.5"]).agent
    assert len({DQNConfig().learning_rate, tuned.learning_rate, preset.learning_rate}) == 3
    assert (preset.learning_rate, given.learning_rate) == (2e-4, 0.5)
    assert given.replay.size == preset.replay.size == 50_000


@pytest.mark.parametrize("name", BOOK)
def test_no_tuned_value_leaks_into_a_preset(name: str) -> None:
    assert compose([f"experiment={name}"]) == compose([f"experiment={name}", "~tuned"])


def test_what_a_preset_leaves_out_has_the_agents_default() -> None:
    assert compose(["agent=dqn"]).agent.epsilon.fraction != DQNConfig().epsilon.fraction
    assert compose(["experiment=book_dqn"]).agent.epsilon.fraction == DQNConfig().epsilon.fraction


def test_a_preset_can_be_tried_with_another_agent_and_environment() -> None:
    config = compose(["experiment=book_dqn", "agent=double_dqn", "env=Acrobot-v1"])
    assert (config.agent.double, config.agent.gradient_steps, config.env.id) == (True, 10, "Acrobot-v1")


TWO_UPDATES: dict[str, dict[str, Any]] = {
    "book_reinforce": {"total_episodes": 2},
    "book_ppo2": {"total_timesteps": 400},
    "book_dqn": {"total_episodes": 2, "agent.learning_starts": 1},
}


@pytest.mark.parametrize("name", BOOK)
def test_a_preset_trains_two_updates_from_python(name: str, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"final_eval_episodes": 0, "eval_interval": 0, "log_interval": 1}
    untrained: dict[str, Any] = {"agent.learning_rate": 1e-12, "agent.critic_learning_rate": 1e-12}
    if name != "book_ppo2":
        del untrained["agent.critic_learning_rate"]
    results = [
        rlkit.train(experiment=name, run_dir=tmp_path / folder, **quick, **TWO_UPDATES[name], **fields)
        for folder, fields in (("trained", {}), ("untrained", untrained))
    ]
    weights, initial = (parameters(result.agent) for result in results)
    moved = [name for name in weights if "weight" in name and np.abs(weights[name] - initial[name]).max() > 1e-4]
    assert len(moved) == {"book_reinforce": 2, "book_ppo2": 4, "book_dqn": 3}[name], "every layer learns"
    with (results[0].run_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert len(rows) == 2
    saved: Any = OmegaConf.load(results[0].run_dir / ".hydra" / "config.yaml")
    keys = [key for key in BOOK[name] if key not in ("agent.name", *TWO_UPDATES[name])]
    assert {key: OmegaConf.select(saved, key) for key in keys} == {key: BOOK[name][key] for key in keys}
    chosen: Any = OmegaConf.load(results[0].run_dir / ".hydra" / "hydra.yaml")
    assert chosen.hydra.runtime.choices.experiment == name


def test_the_books_a3c_is_composed_of_its_constants() -> None:
    config: Any = compose(["experiment=book_a3c", "agent.num_workers=3"])
    agent = config.agent
    assert (agent.name, agent.num_workers, agent.num_steps, agent.optimizer) == ("a3c", 3, 20, "adam")
    assert (agent.learning_rate, agent.gamma, agent.vf_coef, agent.ent_coef) == (1e-3, 0.99, 0.5, 0.01)
    assert (config.total_episodes, config.num_envs, config.network.hidden_sizes) == (400, 1, [128])


def test_experiments_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /agent: dqn\nnetwork:\n  hidden_sizes: [7]\n"
    )
    config = compose([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert config.network == NetworkConfig(hidden_sizes=[7], activation="relu")  # tuned values, and mine
    assert config.agent == compose(["agent=dqn"]).agent
