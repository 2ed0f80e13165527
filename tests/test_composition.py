from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import MissingConfigException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import rlkit
from rlkit.agents import VARIANTS
from rlkit.agents.ppo import PPOConfig
from rlkit.cli.composition import APP, compose, compose_job
from rlkit.config import EnvConfig, TrainConfig
from rlkit.errors import RlkitError
from rlkit.runs.hydra_app import readable_errors
from rlkit.runs.loggers import TensorBoardConfig, WandbConfig
from rlkit.setting import NetworkConfig, updated

TUNED = resources.files("rlkit.conf") / "tuned"


def test_defaults_are_those_of_the_dataclasses() -> None:
    assert compose(["~tuned"]) == TrainConfig(agent=PPOConfig())


def test_overrides_reach_every_part() -> None:
    config = compose(
        [
            "agent.gamma=0.5",
            "agent.target_kl=0.02",
            "network.hidden_sizes=[32,16]",
            "env.preprocessing=none",
            "num_envs=3",
            "agent.minibatch_size=7",
            "seed=5",
            "device=cpu",
        ]
    )
    assert (config.agent.gamma, config.agent.target_kl, config.agent.minibatch_size) == (0.5, 0.02, 7)
    assert config.network == NetworkConfig(hidden_sizes=[32, 16])
    assert config.env == EnvConfig("CartPole-v1", preprocessing="none")
    assert (config.num_envs, config.seed, config.device) == (3, 5, "cpu")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_agent_choice_sets_its_fields(name: str) -> None:
    agent = compose([f"agent={name}"]).agent
    assert type(agent) is VARIANTS[name].config
    assert updated(agent, VARIANTS[name].fields) == agent


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "ALE/Pong-v5", "rlkit/ProbeActionObs-v0"])
def test_env_takes_registered_ids(env_id: str) -> None:
    assert compose([f"env={env_id}"]).env == EnvConfig(env_id)


def test_env_imports_the_module_before_the_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "composed_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "envs.py").write_text(
        "import gymnasium\ngymnasium.register('Composed-v3', 'gymnasium.envs.classic_control.cartpole:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert compose(["env=composed_package.envs:Composed-v3"]).env.id == "composed_package.envs:Composed-v3"


def test_env_kwargs_take_any_key() -> None:
    config = compose(["env_kwargs={map_name: 8x8, nested: {sizes: [1, 2]}}", "env_kwargs.is_slippery=false"])
    assert config.env_kwargs == {"map_name": "8x8", "nested": {"sizes": [1, 2]}, "is_slippery": False}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("logger=[]", {}),
        ("logger=wandb", {"wandb": WandbConfig()}),
        ("logger=[tensorboard,wandb]", {"tensorboard": TensorBoardConfig(), "wandb": WandbConfig()}),
    ],
)
def test_loggers_are_chosen_by_name(override: str, expected: dict[str, Any]) -> None:
    assert compose([override]).logger == expected


def test_a_logger_has_fields() -> None:
    config = compose(["logger=[wandb]", "logger.wandb.project=mine"])
    assert config.logger == {"wandb": WandbConfig(project="mine")}


def test_tuned_values_beat_defaults_and_lose_to_the_command_line() -> None:
    tuned = OmegaConf.load(str(TUNED / "ppo" / "CartPole-v1.yaml"))
    assert tuned.agent.num_steps != PPOConfig().num_steps
    assert compose([]).agent.num_steps == tuned.agent.num_steps
    assert compose(["agent.num_steps=77"]).agent.num_steps == 77
    assert compose(["agent.num_steps=77"]).agent.num_epochs == tuned.agent.num_epochs
    assert compose(["~tuned"]).agent.num_steps == PPOConfig().num_steps
    assert compose(["env=rlkit/ProbeActionObs-v0"]).agent == PPOConfig()


def test_variants_inherit_tuned_values_but_keep_their_own_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    ppo, kl = compose(["agent=ppo"]).agent, compose(["agent=ppo_kl"]).agent
    assert kl.objective == "kl"
    assert vars(kl) | {"objective": "clip"} == vars(ppo)
    # A field that both the tuned file and the variant set is the variant's.
    monkeypatch.setitem(VARIANTS, "ppo_short", VARIANTS["ppo"]._replace(fields={"num_epochs": 3}))
    assert compose(["agent=ppo_short"]).agent.num_epochs == 3


@pytest.mark.parametrize(
    "choice",
    [
        (agent.name, env.name.removesuffix(".yaml"))
        for agent in TUNED.iterdir()
        for env in agent.iterdir()
        if env.name.endswith(".yaml")
    ],
)
def test_every_tuned_file_is_for_a_known_env_and_valid(choice: tuple[str, str]) -> None:
    agent, env_id = choice
    assert compose([f"agent={agent}", f"env={env_id}"]) != compose([f"agent={agent}", f"env={env_id}", "~tuned"])


MISTAKES = {
    "agent.learning_rat=3": "unknown key 'agent.learning_rat'; did you mean 'agent.learning_rate'?",
    "learning_rate=3": "unknown key 'learning_rate'; did you mean 'agent.learning_rate'?",
    "num_env=8": "unknown key 'num_env'; did you mean 'num_envs'?",
    "agnt=ppo": "unknown key 'agnt'; did you mean 'agent'?",
    "network={hidden_size: [3]}": "unknown key 'network.hidden_size'; did you mean 'network.hidden_sizes'?",
    "hydra.run.dirr=x": "unknown key 'hydra.run.dirr'; did you mean 'hydra.run.dir'?",
    "+nonsense=3": "unknown key 'nonsense'",
    "++agent.gama=3": "unknown key 'agent.gama'; did you mean 'agent.gamma'?",
    "agent=ppp": "unknown agent 'ppp'; did you mean 'ppo'? (known: ",
    "agent=null": "agent=null: expected a name",
    "~agent": "a run has one agent and one env",
    "agent=[ppo,ppo2]": "a run has one agent and one env",
    "env=CartPol-v1": "unknown env 'CartPol-v1'; did you mean 'CartPole-v1'?",
    "env=no_such_module:Foo-v0": "no_such_module",
    "env=3": "env=3: expected a name",
    "logger=wandbb": "unknown logger 'wandbb'; did you mean 'wandb'?",
    "logger=[tensorboard,foo]": "unknown logger 'foo' (known: tensorboard, wandb)",
    "logger=null": "logger=null: expected a name",
    "logger=[1]": "logger=[1]: expected a name",
    "logger.wandb.project=x": "logger.wandb is not in use: choose it by logger=[wandb]",
    "+logger.wandb.project=x": "logger.wandb is not in use: choose it by logger=[wandb]",
    "experiment=book_dqm": "unknown experiment 'book_dqm'; did you mean 'book_dqn'? (known: book_a3c, book_dqn, ",
    "experiment=3": "experiment=3: expected a name",
    "experimnt=book_dqn": "unknown key 'experimnt'; did you mean 'experiment'?",
    "total_episodes=0": "total_episodes=0 is out of range",
    "network.initialization=he": "unknown network.initialization 'he'",
    "tuned=dqqn": "unknown agent 'dqqn'",
    "device=gpu": "unknown device 'gpu'; did you mean 'cpu'?",
    "vectorization=fast": "unknown vectorization 'fast'",
    "num_envs=abc": "num_envs: Value 'abc' of type 'str' could not be converted to Integer",
    "num_envs=2.5": "num_envs: Value '2.5' of type 'float' could not be converted to Integer",
    "agent.gamma=high": "agent.gamma: Value 'high' of type 'str' could not be converted to Float",
    "seed=null": "seed: field 'seed' is not Optional",
    "env_kwargs=3": "env_kwargs: Cannot assign int",
    "network.hidden_sizes=[a]": "network.hidden_sizes[0]: Value 'a'",
    "num_envs=0": "num_envs=0 is out of range",
    "total_timesteps=0": "total_timesteps=0 is out of range",
    "total_timesteps=-5": "total_timesteps=-5 is out of range",
    "agent.objective=clp": "unknown agent.objective 'clp'; did you mean 'clip'?",
    "seed=${nothing}": "'nothing' not found",
    "seed": "cannot read 'seed': expected key=value",
    "env_kwargs={a: [1,": "cannot read 'env_kwargs={a: [1,': expected key=value",
    "seed=1,2": "To sweep over it, add --multirun",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(override: str) -> None:
    with pytest.raises(RlkitError) as error:
        compose([override])
    assert MISTAKES[override] in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_names_are_listed_only_where_there_are_some() -> None:
    with pytest.raises(RlkitError, match=r"^unknown configuration 'foo'$"), readable_errors(APP):
        raise MissingConfigException("missing", missing_cfg_file="foo", options=[])


def test_an_unknown_field_of_a_chosen_logger_is_named() -> None:
    with pytest.raises(RlkitError, match=r"unknown key 'logger\.wandb\.projct'; did you mean 'logger\.wandb\.project'"):
        compose(["logger=wandb", "++logger.wandb.projct=x"])


@settings(max_examples=25, deadline=None)
@given(
    key=st.sampled_from(["seed", "agent", "logger", "env_kwargs.x", "agent.gamma", "network.hidden_sizes"]),
    value=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), max_size=8),
)
def test_any_text_is_either_read_or_refused_in_one_line(key: str, value: str) -> None:
    message = ""
    try:
        compose([f"{key}={value}"])
    except RlkitError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_a_job_says_where_it_goes_and_how_it_was_composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = compose_job(["agent=ppo_kl", "env=ALE/Pong-v5", "seed=4"])
    assert job.run_dir.parent == tmp_path / "runs" / "ppo_kl" / "ALE-Pong-v5"
    assert job.run_dir.name.endswith("-seed4")
    assert OmegaConf.create(job.hydra_files["overrides.yaml"]) == ["agent=ppo_kl", "env=ALE/Pong-v5", "seed=4"]
    composed: Any = OmegaConf.create(job.hydra_files["config.yaml"])
    assert (composed.agent.objective, composed.env.id, "hydra" in composed) == ("kl", "ALE/Pong-v5", False)
    assert "hydra" in OmegaConf.create(job.hydra_files["hydra.yaml"])
    assert not list(tmp_path.iterdir()), "composing writes nothing"


def test_equal_runs_get_different_folders() -> None:
    assert compose_job(["seed=1"]).run_dir != compose_job(["seed=1"]).run_dir


def test_run_dir_can_be_chosen(tmp_path: Path) -> None:
    assert compose_job([f"hydra.run.dir={tmp_path}/here"]).run_dir == tmp_path / "here"


def test_works_inside_another_hydra_application(tmp_path: Path) -> None:
    (tmp_path / "conf" / "agent").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [agent: ppo, _self_]\nsteps: 12\n")
    (tmp_path / "conf" / "agent" / "ppo.yaml").write_text("not_ours: true\n")
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """\
            import hydra
            from hydra.core.global_hydra import GlobalHydra
            from rlkit.cli.composition import compose

            @hydra.main(version_base="1.3", config_path="conf", config_name="config")
            def app(config):
                assert config.agent == {"not_ours": True}
                assert compose([f"total_timesteps={config.steps}"]).total_timesteps == config.steps
                assert GlobalHydra.instance().is_initialized()
                print("steps", config.steps)

            app()
            """
        )
    )
    command = [sys.executable, "app.py", "-m", "steps=12,13"]
    environ = os.environ | {"PYTHONPATH": str(Path(rlkit.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "steps 12" in done.stdout
    assert "steps 13" in done.stdout
