"""profile=true: times are charged where they belong, the arithmetic is counted right, and nothing of it stays."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rlkit
from rlkit.agents import ppo
from rlkit.engine.make import make_actor_critic, make_q_network
from rlkit.errors import RlkitError
from rlkit.profiling import SECTIONS, Stopwatch, multiplications_per_second, products_per_row, replaced
from rlkit.setting import NetworkConfig, Setting

SEED = np.random.SeedSequence(0)


def test_time_is_charged_to_the_innermost_section_and_evaluations_are_one() -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    watch = Stopwatch(lambda: now)
    act = watch.timed("act", lambda: spend(3))
    save = watch.timed("checkpoint", lambda: spend(5))

    def collect() -> None:
        spend(1)
        act()
        act()
        spend(1)

    def evaluate() -> None:
        act()
        save()
        spend(10)

    spend(7)
    watch.timed("collect", collect)()
    watch.timed("evaluate", evaluate)()
    spend(2)
    watch.switch("loop")
    spent = {name: seconds for name, seconds in watch.seconds.items() if seconds}
    assert spent == {"act": 6, "collect": 2, "evaluate": 13, "checkpoint": 5, "loop": 9}
    assert (watch.calls["act"], watch.calls["checkpoint"]) == (2, 1)
    # Half a second inside of each timed call, and a quarter in the section that called it, are the clock's own.
    spent = {name: seconds for name, seconds in watch.spent(0.5, 0.25).items() if seconds}
    assert spent == {"act": 5, "collect": 1, "evaluate": 12.25, "checkpoint": 4.5, "loop": 8.5}


def test_time_is_charged_where_it_belongs_after_an_exception() -> None:
    watch = Stopwatch()

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch.timed("collect", watch.timed("env", fail))()
    assert watch.section == "loop"


def test_attributes_are_replaced_for_a_while() -> None:
    owner = SimpleNamespace(own=1)
    with replaced(owner, "own", 2):
        assert owner.own == 2
    assert vars(owner) == {"own": 1}

    class Owner:
        def method(self) -> int:
            return 1

    instance: Any = Owner()
    with replaced(instance, "method", lambda: 2):
        assert instance.method() == 2
    assert instance.method() == 1
    assert vars(instance) == {}


def test_products_are_two_operations_per_weight() -> None:
    config = NetworkConfig(hidden_sizes=[64, 32])
    network, _ = make_actor_critic(Setting(spaces.Box(-1, 1, (4,)), spaces.Discrete(3), config), SEED)
    actor, critic = (4 * 64, 64 * 32, 32 * 3), (4 * 64, 64 * 32, 32 * 1)
    assert products_per_row(network, network.policy).forward == 2 * sum(actor)
    whole = products_per_row(network, network)
    assert whole.forward == 2 * (sum(actor) + sum(critic))
    assert whole.backward == 2 * whole.forward - 2 * (4 * 64) * 2, "no gradient by observations"
    assert not any(module._forward_hooks for module in network.modules())


def test_products_of_convolutions_and_of_several_leaves() -> None:
    config = NetworkConfig(hidden_sizes=[], encoder="cnn_v1")
    space = spaces.Dict({"image": spaces.Box(0, 255, (3, 10, 10), np.uint8), "place": spaces.Discrete(5)})
    network, _ = make_q_network(Setting(space, spaces.Discrete(2), config, device="cpu"), 2, SEED)
    convolutions = 10 * 10 * 32 * (3 * 9), 5 * 5 * 64 * (32 * 9), 1600 * 512
    assert products_per_row(network, network).forward == 2 * (sum(convolutions) + (512 + 5) * 2)


def test_multiplying_takes_time() -> None:
    assert 1e7 < multiplications_per_second("cpu") < 1e14


SMALL: dict[str, Any] = {
    "num_envs": 4,
    "vectorization": "sync",
    "eval_episodes": 1,
    "final_eval_episodes": 0,
    "eval_interval": 256,
    "checkpoint_interval": 256,
    "profile": True,
}


def test_a_profiled_run_of_ppo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"agent.num_steps": 32, "agent.minibatch_size": 64, "agent.num_epochs": 3}
    settings = SMALL | fields | {"total_timesteps": 512}
    plain = rlkit.train("ppo", "CartPole-v1", run_dir=tmp_path / "plain", **settings | {"profile": False})
    assert not (plain.run_dir / "profile.json").exists()
    policy_batch = vars(ppo)["policy_batch"]
    result = rlkit.train("ppo", "CartPole-v1", run_dir=tmp_path / "run", **settings)
    report = json.loads((result.run_dir / "profile.json").read_text())
    sections = report["sections"]
    assert list(sections) == list(SECTIONS)
    assert report["timesteps"] == 512
    assert sum(section["seconds"] for section in sections.values()) == pytest.approx(report["seconds"], abs=1e-4)
    assert sum(section["share"] for section in sections.values()) == pytest.approx(1, abs=1e-3)
    assert report["seconds"] <= result.summary["wall_time_s"] + 1e-3
    expected = {"env": 128, "act": 128, "store": 128, "collect": 4, "update": 4, "log": 4, "gradient": 4 * 3 * 2}
    assert {name: sections[name]["calls"] for name in expected} == expected
    assert sections["evaluate"]["calls"] == 2
    assert sections["returns"]["calls"] == 8  # four rollouts' advantages, and the values in them
    assert sections["sample"] == {"seconds": 0, "share": 0, "us_per_timestep": 0, "calls": 0}

    actor, critic = 4 * 64 + 64 * 64 + 64 * 2, 4 * 64 + 64 * 64 + 64
    backward = 2 * (actor + critic) - 2 * 4 * 64
    truncations = report["floor"]["gflop"] * 1e9 - 2 * (
        512 * actor + 4 * 33 * 4 * (actor + critic) + 512 * 3 * (actor + critic + backward)
    )
    assert truncations == pytest.approx(0, abs=1000), "as no episode is cut short, no values besides"
    assert 0 < report["floor"]["share"] < 1
    assert report["floor"]["env_seconds"] == sections["env"]["seconds"]
    printed = capsys.readouterr().err
    assert "gradient steps" in printed
    assert "drawing from the replay buffer" not in printed
    # Nothing of it stays.
    assert vars(ppo)["policy_batch"] is policy_batch
    assert "act" not in vars(result.agent)
    assert not {"policy", "step"} & set(vars(result.agent.engine))  # type: ignore[attr-defined]


@pytest.mark.parametrize("agent", ["dqn", "q_learning", "sarsa", "reinforce", "trpo"])
def test_other_agents_are_profiled_too(tmp_path: Path, agent: str) -> None:
    fields: dict[str, Any] = {"agent.learning_starts": 100} if agent == "dqn" else {}
    env = "FrozenLake-v1" if agent == "q_learning" else "CartPole-v1"
    settings = SMALL | {"num_envs": 1, "total_timesteps": 256}
    result = rlkit.train(agent, env, run_dir=tmp_path / "run", **settings, **fields)
    report = json.loads((result.run_dir / "profile.json").read_text())
    assert report["sections"]["env"]["calls"] >= 256
    assert (report["floor"]["gflop"] > 0) == (agent not in ("q_learning", "sarsa"))
    assert (report["sections"]["sample"]["calls"] > 0) == (agent == "dqn")
    assert 0 < report["floor"]["share"] < 1


def test_a3c_cannot_be_profiled(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match="profile=true is for agents that learn in this process"):
        rlkit.train("a3c", "CartPole-v1", run_dir=tmp_path / "run", total_timesteps=64, profile=True)
    assert not (tmp_path / "run").exists()
