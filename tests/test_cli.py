from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

import rlkit
from rlkit.agents import VARIANTS
from rlkit.agents.ppo import PPOConfig
from rlkit.cli import main as cli
from rlkit.cli.composition import compose_job
from rlkit.cli.help import help_text
from rlkit.config import EnvConfig, TrainConfig
from rlkit.errors import RlkitError
from rlkit.runs.field_docs import field_docs
from rlkit.runs.loggers import WandbConfig
from rlkit.runs.run_folder import RunFolder
from rlkit.setting import NetworkConfig, updated


class Runs(list[tuple[TrainConfig, Path]]):
    """Stands for training: remembers what it was to train, and where; may fail instead."""

    failure: BaseException | None = None
    failing_seeds: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.working_dirs: list[Path] = []

    def run_training(self, config: TrainConfig, run_dir: Path, *, hydra_files: Mapping[str, str]) -> SimpleNamespace:
        if self.failure and (not self.failing_seeds or config.seed in self.failing_seeds):
            raise self.failure
        RunFolder.create(run_dir, hydra_files)
        self.append((config, run_dir))
        self.working_dirs.append(Path.cwd())
        return SimpleNamespace(summary={"eval_return_mean": 10.0 * config.seed})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    runs = Runs()
    stub = ModuleType("rlkit.run")
    stub.run_training = runs.run_training  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rlkit.run", stub)
    monkeypatch.chdir(tmp_path)
    return runs


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command line in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["rlkit", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def in_a_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `python <arguments>` with this copy of rlkit."""
    environ = os.environ | {"PYTHONPATH": str(Path(rlkit.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )


def test_trains_what_it_is_told_and_keeps_how_it_was_told(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    assert command(monkeypatch, "agent=ppo_kl", "env=Acrobot-v1", "seed=3", "agent.num_steps=16") == 0
    ((config, run_dir),) = runs
    assert (config.agent.objective, config.agent.num_steps, config.env.id, config.seed) == ("kl", 16, "Acrobot-v1", 3)
    assert run_dir.parent == Path.cwd() / "runs" / "ppo_kl" / "Acrobot-v1"
    overrides = OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")
    assert overrides == ["agent=ppo_kl", "env=Acrobot-v1", "seed=3", "agent.num_steps=16"]
    composed: Any = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    assert composed.agent.num_steps == 16
    hydra_config: Any = OmegaConf.load(run_dir / ".hydra" / "hydra.yaml")
    assert hydra_config.hydra.runtime.output_dir == str(run_dir)
    assert sorted(path.name for path in run_dir.iterdir()) == [".hydra", ".lock"], "no log files of Hydra's"


def test_hydra_run_dir_moves_the_run_folder(monkeypatch: pytest.MonkeyPatch, runs: Runs, tmp_path: Path) -> None:
    assert command(monkeypatch, "hydra.run.dir=elsewhere/mine") == 0
    assert [run_dir for _, run_dir in runs] == [tmp_path / "elsewhere" / "mine"]


def test_multirun_trains_every_combination_in_its_own_folder(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    assert command(monkeypatch, "-m", "agent=ppo,ppo_kl", "env=CartPole-v1,ALE/Pong-v5", "seed=1,2") == 0
    trained = {(config.agent.objective, config.env.id, config.seed) for config, _ in runs}
    assert trained == {
        (objective, env, seed)
        for objective in ("clip", "kl")
        for env in ("CartPole-v1", "ALE/Pong-v5")
        for seed in (1, 2)
    }
    folders = {run_dir for _, run_dir in runs}
    assert len(folders) == 8
    assert {folder.parent.parent for folder in folders} == {Path.cwd() / "runs" / "sweeps"}


def test_experiments_are_swept(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    assert command(monkeypatch, "-m", "experiment=book_reinforce,book_ppo2", "seed=0,1", "agent.gamma=0.5") == 0
    trained = [(config.agent.name, config.seed, config.total_episodes, config.agent.gamma) for config, _ in runs]
    assert trained == [(name, seed, n, 0.5) for name, n in (("reinforce", 400), ("ppo", 500)) for seed in (0, 1)]


def test_a_failing_job_of_a_sweep_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.failure, runs.failing_seeds = RlkitError("env X: reset raised ValueError"), (1,)
    assert command(monkeypatch, "-m", "seed=0,1,2") == 2
    assert [config.seed for config, _ in runs] == [0, 2]
    error = capsys.readouterr().err
    assert "seed=1" in error
    assert error.endswith("error: env X: reset raised ValueError\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["agent.learning_rat=3"],
        ["agent=ppp"],
        ["env=CartPol-v1"],
        ["num_envs=0"],
        ["num_envs=abc"],
        ["logger=null"],
        ["seed=[1,"],
        ["seed=0,1"],
        ["--seed", "3"],
        ["agent=ppo", "-m", "seed=0,1"],
        ["agent=ppp", "--help"],
        ["-m", "agent=ppo,ppp"],
        ["-m", "agent.learning_rat=1,2"],
        ["-m", "logger=null"],
        ["--cfg", "job", "num_env=3"],
        ["hydra.job.chdir=true", "num_envs=0"],
        ["agent=dqn", "agent.buffer_size=1_000"],
        ["-m", "agent=dqn,rainbow", "agent.tau=0.5"],
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
) -> None:
    assert command(monkeypatch, *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert not runs
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "multirun.yaml"]
    assert not left


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("tuned=false", "expected a name, or for logger a list of names; ~tuned leaves it out"),
        ("env_kwargs={1:2}", "env_kwargs.1: Key 1 (int) is incompatible with (str); expected a name as the key"),
        ("network.hidden_sizes=64", "int is not a ListConfig, list or tuple; expected a list, such as [64]"),
        ("hydra.run.dir=", "hydra.run.dir= names no folder; expected a path"),
        ("hydra.run.dir=' '", "hydra.run.dir= names no folder; expected a path"),
    ],
)
def test_a_mistake_is_told_with_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str], argument: str, words: str
) -> None:
    assert command(monkeypatch, argument) == 2
    assert words in capsys.readouterr().err
    assert not runs


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["agent=dqn", "agent.buffer_size=1_000"], "agent.buffer_size is now agent.replay.size"),
        (
            ["agent=rainbow", "agent.exploration_fraction=0.5"],
            "agent.exploration_fraction is now agent.epsilon.fraction",
        ),
        (
            ["agent=sarsa", "env=FrozenLake-v1", "agent.expected=true"],
            "agent.expected=true is now agent.target=expected",
        ),
        (["overlap=true"], "overlap is gone: vectorization=async steps waiting environments side by side"),
    ],
)
def test_a_name_of_an_earlier_version_is_refused_with_the_new_one(arguments: list[str], words: str, plus: str) -> None:
    *choices, last = arguments
    with pytest.raises(RlkitError, match=f"^{re.escape(words)}$"):
        compose_job([*choices, plus + last])


def test_a_name_of_an_earlier_version_is_refused_in_python_and_in_a_file(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"agent.tau": 0.5}
    with pytest.raises(RlkitError, match=r"^agent.tau is now agent.target.tau$"):
        rlkit.train("dqn", run_dir=tmp_path / "run", **settings)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /agent: dqn\n  - _self_\nagent:\n  v_min: -5.0\n"
    )
    with pytest.raises(RlkitError, match=r"^agent.v_min is now agent.atoms.v_min$"):
        compose_job([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])


@pytest.mark.parametrize("options", [[], ["--run"]], ids=["plain", "by Hydra's launcher"])
def test_an_error_of_training_is_one_line_and_leaves_no_empty_folder(
    monkeypatch: pytest.MonkeyPatch,
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
) -> None:
    (tmp_path / "kept").mkdir()
    runs.failure = RlkitError("env X: step raised ValueError: two\nlines")
    assert command(monkeypatch, *options) == 2
    assert capsys.readouterr().err == "error: env X: step raised ValueError: two lines\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_holds_a_run_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "hydra.run.dir=mine", "seed=1") == 0
    before = Path("mine/.hydra/config.yaml").read_text()
    assert command(monkeypatch, "hydra.run.dir=mine", "seed=2") == 2
    assert "mine" in capsys.readouterr().err
    assert Path("mine/.hydra/config.yaml").read_text() == before


@pytest.mark.parametrize("options", [[], ["--run"]], ids=["plain", "by Hydra's launcher"])
def test_a_run_folder_that_cannot_be_made_is_one_line(
    monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    Path("file").touch()
    assert command(monkeypatch, *options, "hydra.run.dir=file/run") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot ")
    assert "file/run: Not a directory" in error
    assert error.count("\n") == 1
    assert not runs


def test_hydras_own_settings_are_kept(monkeypatch: pytest.MonkeyPatch, runs: Runs, tmp_path: Path) -> None:
    assert command(monkeypatch, "hydra.run.dir=mine", "hydra.job.chdir=true") == 0
    ((_, run_dir),) = runs
    assert run_dir == tmp_path / "mine"
    assert runs.working_dirs == [run_dir]


def test_ctrl_c_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.failure = KeyboardInterrupt()
    assert command(monkeypatch) == 130
    assert capsys.readouterr().err == ""


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    runs.failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command(monkeypatch)


def test_hydra_full_error_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    monkeypatch.setattr(cli, "TRACEBACKS", True)
    with pytest.raises(RlkitError, match="num_envs=0"):
        command(monkeypatch, "num_envs=0")


def test_cfg_prints_the_configuration_instead_of_training(
    monkeypatch: pytest.MonkeyPatch, runs: Runs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(monkeypatch, "--cfg", "job", "seed=7") == 0
    printed: Any = OmegaConf.create(capsys.readouterr().out)
    assert (printed.seed, printed.env.id) == (7, "CartPole-v1")
    assert not runs
    assert not list(tmp_path.iterdir())


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"rlkit {rlkit.__version__}\n"


@pytest.mark.parametrize("config", [TrainConfig(), NetworkConfig(), EnvConfig(), PPOConfig(), WandbConfig()])
def test_every_field_is_documented(config: Any) -> None:
    for field in field_docs(config):
        assert field.doc, f"{type(config).__name__}.{field.name} has no documentation"


@pytest.mark.parametrize("agent", VARIANTS)
def test_help_shows_every_key_with_its_default(agent: str) -> None:
    text = help_text(agent)
    variant = VARIANTS[agent]
    for field in field_docs(updated(variant.config(), variant.fields)):
        if isinstance(field.default, str):
            assert f"agent.{field.name}={field.default}" in text
        assert f"  agent.{field.name}=" in text
    for key in (
        "network.hidden_sizes=null",
        "total_timesteps=100000",
        "logger.wandb.mode=offline",
        "env.preprocessing",
    ):
        assert f"  {key}" in text
    for choice in (*VARIANTS, "experiment=NAME, one of: book_a3c, book_dqn, book_ppo2, book_reinforce"):
        assert choice in text


HEAVY = {"torch", "stable_baselines3", "wandb", "matplotlib", "tensorboard", "rich", "moviepy"}
"""Libraries that take seconds to import, which `--help` and a mistake must not wait for."""


@pytest.mark.parametrize("argument", ["--help", "agent.learning_rat=3", "env=CartPol-v1", "num_envs=0"])
def test_help_and_mistakes_wait_for_no_slow_library(argument: str, tmp_path: Path) -> None:
    done = in_a_process("-X", "importtime", "-m", "rlkit", argument, cwd=tmp_path)
    imports = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in imports}
    assert "rlkit" in imported
    assert not HEAVY & imported
    said = [line for line in done.stderr.splitlines() if line not in imports]
    if argument == "--help":
        assert (done.returncode, said) == (0, [])
        assert "agent.learning_rate" in done.stdout
    else:
        assert (done.returncode, len(said)) == (2, 1)
        assert said[0].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys, rlkit, rlkit.agents, rlkit.envs, rlkit.runs.loggers\n"
        "import rlkit.cli.composition, rlkit.cli.main, rlkit.cli.help\n"
        "rlkit.train\n"
        f"assert not {HEAVY!r} & set(sys.modules)\n"
    )
    done = in_a_process("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
