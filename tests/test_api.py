from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import rlkit
from rlkit.cli.composition import compose
from rlkit.config import TrainConfig
from rlkit.runs.grammar import _literal
from rlkit.runs.loggers import TensorBoardConfig, WandbConfig


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, Path, Mapping[str, str]]]:
    """What was to be trained, where, and how it was composed; nothing is trained."""
    calls: list[tuple[TrainConfig, Path, Mapping[str, str]]] = []

    def run_training(config: TrainConfig, run_dir: Path, *, hydra_files: Mapping[str, str]) -> str:
        calls.append((config, run_dir, hydra_files))
        return "result"

    stub = ModuleType("rlkit.run")
    stub.run_training = run_training  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rlkit.run", stub)
    return calls


def test_keywords_are_the_command_line(trained: list[Any], tmp_path: Path) -> None:
    dotted: dict[str, Any] = {
        "agent.num_steps": 64,
        "agent.learning_rate": np.float64(1e-4),
        "logger.wandb.project": "mine",
    }
    result: Any = rlkit.train(
        agent="ppo_kl",
        env="Acrobot-v1",
        total_timesteps=np.int64(5_000),
        seed=2,
        network={"hidden_sizes": [32], "normalize_obs": False},
        env_kwargs={"text": "it's 100 % \\ {a}", "none": None, "flag": True, "list": [1, 2.5, "x,y"]},
        logger=["tensorboard", "wandb"],
        eval_interval=None,
        run_dir=tmp_path / "my run",
        **dotted,
    )
    assert result == "result"
    ((config, run_dir, files),) = trained
    assert run_dir == tmp_path / "my run"
    assert (config.env.id, config.total_timesteps, config.seed) == ("Acrobot-v1", 5000, 2)
    assert (config.agent.objective, config.agent.num_steps, config.agent.learning_rate) == ("kl", 64, 1e-4)
    assert (config.network.hidden_sizes, config.network.normalize_obs) == ([32], False)
    assert config.env_kwargs["text"] == "it's 100 % \\ {a}"
    assert config.env_kwargs == config.env_kwargs | {"none": None, "flag": True, "list": [1, 2.5, "x,y"]}
    assert config.logger == {"tensorboard": TensorBoardConfig(), "wandb": WandbConfig(project="mine")}
    overrides = list(OmegaConf.create(files["overrides.yaml"]))
    assert compose(overrides) == config, "the recorded overrides give the same configuration"


def test_loggers_come_with_their_fields(trained: list[Any]) -> None:
    rlkit.train(logger={"tensorboard": {}, "wandb": {"project": "mine", "mode": "offline"}})
    expected = {"tensorboard": TensorBoardConfig(), "wandb": WandbConfig(project="mine", mode="offline")}
    assert trained[0][0].logger == expected


@pytest.mark.parametrize(("verbose", "read"), [(0, False), (1, True), (False, False), (True, True)])
def test_verbose_is_a_number_or_a_bool(trained: list[Any], verbose: Any, read: bool) -> None:
    rlkit.train(verbose=verbose)
    assert trained[0][0].verbose is read


class Small(gymnasium.Env[Any, Any]):
    """An environment that nobody registered."""


@pytest.mark.parametrize(
    ("env", "advice"),
    [
        (lambda: gymnasium.make("CartPole-v1"), "env='CartPole-v1'"),
        (
            lambda: gymnasium.make("FrozenLake-v1", map_name="8x8"),
            "env='FrozenLake-v1' and env_kwargs={'map_name': '8x8'}",
        ),
        (Small, "gymnasium.register('Small-v0', entry_point='test_api:Small')"),
        (lambda: Small, "gymnasium.register('Small-v0', entry_point='test_api:Small')"),
    ],
)
def test_an_environment_in_place_of_an_id_is_refused_with_the_way_to_name_it(env: Any, advice: str) -> None:
    with pytest.raises(rlkit.RlkitError, match="expected an id") as error:
        rlkit.train(env=env())
    assert advice in str(error.value)


def test_tuned_values_can_be_left_out(trained: list[Any]) -> None:
    rlkit.train()
    rlkit.train(tuned=False)
    assert [config for config, _, _ in trained] == [compose([]), compose(["~tuned"])]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agent": "ppp"}, "unknown agent 'ppp'; did you mean 'ppo'?"),
        ({"agent": 3}, "expected a name"),
        ({"env": "CartPol-v1"}, "unknown env 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ({"total_timestep": 5}, "unknown key 'total_timestep'; did you mean 'total_timesteps'?"),
        ({"num_envs": "many"}, "num_envs: Value 'many'"),
        ({"num_envs": 0}, "num_envs=0 is out of range"),
        ({"env_kwargs": {"reward": print}}, "env_kwargs.reward=<built-in function print>: expected"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    trained: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rlkit.RlkitError) as error:
        rlkit.train(**settings)
    assert message in str(error.value)
    assert not trained
    assert not list(tmp_path.iterdir())


@settings(deadline=None)  # the parser builds its tables in the first call
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_literals_come_back_from_hydras_grammar(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"key={_literal('key', value)}"])
    assert override.value() == value


def test_the_package_offers_what_it_says() -> None:
    for name in rlkit.__all__:
        assert getattr(rlkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rlkit.trian  # noqa: B018
