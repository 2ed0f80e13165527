"""Run folders that somebody else has made: evaluating or resuming one executes nothing in it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf
from waiting import PATIENCE

import rlkit
from rlkit import checkpoint, perception
from rlkit.agents.ppo import PPOConfig
from rlkit.errors import RlkitError
from rlkit.perception.config_source import APP, PARTS
from rlkit.registry import make_agent
from rlkit.runs.hydra_app import compose_job, stored_choices
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.imports import NothingImportedFrom

ROOT = Path(__file__).resolve().parents[1]
PAYLOAD = """
from pathlib import Path
Path(__file__).with_name("exploded").touch()
"""


def command(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", module, *arguments]
    return subprocess.run(run, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


# An agent whose description names the module of its environment


def agent_run(folder: Path, env: Any) -> Path:
    """A run folder with one checkpoint, whose agent.json says that `env` is its environment."""
    box = gym.make("CartPole-v1")
    agent = make_agent(PPOConfig(), Setting(box.observation_space, box.action_space, NetworkConfig(hidden_sizes=[4])))
    agent.env = env
    agent.save(folder / "checkpoints" / "best")
    return folder


@pytest.mark.parametrize(
    ("module", "place", "cwd"),
    [
        ("downloads.agent_run.payload", "payload.py", "."),
        ("agent_run.payload", "payload.py", "downloads"),
        ("payload", "payload.py", "downloads/agent_run"),
        ("payload", "payload/__init__.py", "downloads/agent_run"),
        ("checkpoints.best.payload", "checkpoints/best/payload.py", "downloads/agent_run"),
        ("best.payload", "checkpoints/best/payload.py", "downloads/agent_run/checkpoints"),
    ],
)
def test_evaluating_a_run_does_not_import_what_lies_in_it(module: str, place: str, cwd: str, tmp_path: Path) -> None:
    run = tmp_path / "downloads" / "agent_run"
    agent_run(run, {"id": f"{module}:CartPole-v1", "kwargs": {}, "preprocessing": "auto"})
    (run / place).parent.mkdir(parents=True, exist_ok=True)
    (run / place).write_text(PAYLOAD)
    done = command("rlkit.evaluate", str(run), "episodes=1", cwd=tmp_path / cwd)
    refused(done, f"env={module}:CartPole-v1 is in the folder that is loaded, and nothing in there is executed")
    assert list(tmp_path.rglob("exploded")) == []


@pytest.mark.parametrize(
    ("name", "place", "cwd"),
    [
        ("run", "json.py", "run"),  # Python's own, which the command imports
        ("run", "numpy/__init__.py", "run/checkpoints/best"),  # what is installed
        ("run", "minatar/gym.py", "run"),  # what is not, and is looked for where an id is unknown
        ("minatar", "gym.py", "."),  # so that the folder's own name is part of the module's
        ("highway_env", "__init__.py", "."),
    ],
)
def test_what_is_imported_anyway_does_not_come_from_the_run(name: str, place: str, cwd: str, tmp_path: Path) -> None:
    run = agent_run(tmp_path / name, {"id": "Nowhere/Known-v0", "kwargs": {}, "preprocessing": "auto"})
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).write_text(PAYLOAD)
    checkpoint = os.path.relpath(run / "checkpoints" / "best", tmp_path / cwd)
    refused(command("rlkit.evaluate", checkpoint, cwd=tmp_path / cwd), "unknown env 'Nowhere/Known-v0'")
    assert list(tmp_path.rglob("exploded")) == []


@pytest.mark.parametrize("module", ["test.__main__", "antigravity", "rlkit.__main__"])
def test_a_file_names_no_module_that_runs_by_itself(module: str, tmp_path: Path) -> None:
    run = agent_run(tmp_path / "run", {"id": f"{module}:CartPole-v1", "kwargs": {}, "preprocessing": "auto"})
    with pytest.raises(RlkitError, match="expected a module of an installed package or of your own, not " + module):
        checkpoint.read_env(run)


@pytest.mark.parametrize("linked", ["payload.py", "payload"])
def test_links_lead_no_code_into_a_run_or_out_of_it(
    linked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = agent_run(tmp_path / "run", {"id": "run.payload:CartPole-v1", "kwargs": {}, "preprocessing": "auto"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").write_text(PAYLOAD)
    (run / linked).symlink_to(tmp_path / "elsewhere" / ("" if linked == "payload" else "__init__.py"))
    (tmp_path / "alias").symlink_to(run)
    monkeypatch.syspath_prepend(tmp_path)
    for path in (run, tmp_path / "alias", tmp_path / "alias" / "checkpoints" / "best" / "model.safetensors"):
        with pytest.raises(RlkitError, match="is in the folder that is loaded, and nothing in there is executed"):
            checkpoint.read_env(path)
    assert list(tmp_path.rglob("exploded")) == []


def test_modules_are_found_as_before_when_the_folder_has_been_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "only_in_the_run.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "run")
    before = list(sys.meta_path)
    with NothingImportedFrom(tmp_path / "run"):
        assert importlib.util.find_spec("only_in_the_run") is None
        assert importlib.util.find_spec("wave") is not None  # Python's own
        assert importlib.metadata.version("numpy") == np.__version__
    assert sys.meta_path == before
    assert importlib.util.find_spec("only_in_the_run") is not None


def test_an_environment_outside_of_the_run_is_imported(tmp_path: Path) -> None:
    run = agent_run(tmp_path / "run", {"id": "mine:Mine-v0", "kwargs": {}, "preprocessing": "auto"})
    register = "gym.register('Mine-v0', 'gymnasium.envs.classic_control.cartpole:CartPoleEnv', max_episode_steps=20)"
    (tmp_path / "mine.py").write_text(f"import gymnasium as gym\n{register}\n")
    done = command("rlkit.evaluate", str(run), "episodes=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ppo on mine:Mine-v0" in done.stdout


def test_a_module_that_the_user_names_is_imported_wherever_it_is(tmp_path: Path) -> None:
    """The command line is the user's own word, even for a module in the run folder."""
    run = agent_run(tmp_path / "run", {"id": "CartPole-v1", "kwargs": {}, "preprocessing": "auto"})
    (run / "payload.py").write_text(PAYLOAD)
    done = command("rlkit.evaluate", ".", "env=payload:CartPole-v1", "episodes=1", cwd=run)
    assert done.returncode == 0, done.stderr
    assert (run / "exploded").exists()


@pytest.mark.parametrize(
    "env",
    [
        "CartPole-v1",
        ["CartPole-v1"],
        7,
        {},
        {"id": None, "kwargs": {}, "preprocessing": "auto"},
        {"id": "CartPole-v1", "kwargs": [1], "preprocessing": "auto"},
        {"id": "CartPole-v1", "kwargs": {}, "preprocessing": 3},
    ],
)
def test_an_environment_of_a_wrong_type_is_one_line(env: Any, tmp_path: Path) -> None:
    run = agent_run(tmp_path / "run", None)
    file = run / "checkpoints" / "best" / "agent.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "env": env}))
    refused(command("rlkit.evaluate", str(run), cwd=tmp_path), "agent.json is damaged: its env is not an id, kwargs")
    assert rlkit.load(run).predict([0.0, 0.0, 0.0, 0.0])[0] in (0, 1)  # the agent itself is whole


# A companion run whose stored files name more than values


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quick = {"fit.epochs": 1, "data.image_size": 8, "model": "mlp"}
    return perception.train("lenet-digits", run_dir=tmp_path_factory.mktemp("companion") / "run", **quick).run_dir


@pytest.fixture
def companion(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, and beside it a package that explodes."""
    (tmp_path / "payload").mkdir()
    (tmp_path / "payload" / "__init__.py").write_text(PAYLOAD)
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize(
    "hostile",
    [
        "hydra.searchpath=[pkg://payload]",
        "'hydra.searchpath=[pkg://payload]'",
        "+hydra.searchpath=[pkg://payload]",
        "hydra.job_logging.handlers.x._target_=payload.Handler",
    ],
)
def test_stored_overrides_bring_no_package_with_them(hostile: str, companion: Path) -> None:
    file = companion / ".hydra" / "overrides.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create([*OmegaConf.load(file), hostile.strip("'")])))
    done = command("rlkit.perception", f"resume={companion}", "fit.epochs=2", cwd=companion.parent)
    assert done.returncode == 0, done.stderr
    assert list(companion.parent.rglob("exploded")) == []


def test_a_logger_that_a_stored_key_names_is_not_imported(companion: Path) -> None:
    (companion / "payload.py").write_text(PAYLOAD)
    file = companion / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("logger: {}", "logger: {'run.payload:Logger': {}}"))
    done = command("rlkit.perception", f"resume={companion}", "fit.epochs=2", cwd=companion.parent)
    refused(done, "unknown key 'logger.run.payload:Logger'")
    assert list(companion.parent.rglob("exploded")) == []


@pytest.mark.parametrize(("name", "cwd"), [("hydra_plugins", "."), ("run", "run")])
def test_plugins_are_not_looked_for_in_the_run(name: str, cwd: str, trained: Path, tmp_path: Path) -> None:
    """Hydra imports all modules of `hydra_plugins`, wherever Python's path has a folder of this name."""
    run = shutil.copytree(trained, tmp_path / name)
    plugins = run if name == "hydra_plugins" else run / "hydra_plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "payload.py").write_text(PAYLOAD)
    folder = os.path.relpath(run, tmp_path / cwd)
    done = command("rlkit.perception", f"resume={folder}", "fit.epochs=2", cwd=tmp_path / cwd)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("exploded")) == []


def test_stored_values_are_not_resolved(companion: Path) -> None:
    file = companion / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("seed: 0", "seed: ${oc.env:HOME}"))
    done = command("rlkit.perception", f"resume={companion}", "fit.epochs=2", cwd=companion.parent)
    refused(done, "seed=${oc.env:HOME} would be resolved, which stored values never are")


def test_a_users_own_interpolation_is_stored_as_its_value() -> None:
    setting = "seed=${oc.env:RLKIT_NO_SUCH_VARIABLE,3}"
    files = compose_job(APP, ["recipe=lenet-digits", setting]).hydra_files
    stored: Any = OmegaConf.to_container(OmegaConf.create(files["config.yaml"]), resolve=False)
    assert stored["seed"] == 3


@pytest.mark.parametrize(
    "choice",
    ["${oc.env:HOME}", "../../evil", "/etc/evil", "pkg://payload", "a.b:C", "", None, 3, ["mlp"], {"x": "mlp"}],
)
def test_of_stored_choices_only_plain_names_count(choice: Any) -> None:
    choices = {"data": "digits", "model": "mlp", "task": "classification"}
    hydra_config = {"hydra": {"runtime": {"choices": choices | {"hydra/launcher": "evil"}}, "searchpath": ["pkg://x"]}}
    kept = ["data=digits", "model=mlp", "task=classification"]
    assert stored_choices(OmegaConf.create(hydra_config), PARTS) == kept
    choices["model"] = choice
    with pytest.raises(RlkitError, match="model=.* is no name of a config"):
        stored_choices(OmegaConf.create({"hydra": {"runtime": {"choices": choices}}}), PARTS)
