"""Agents and loggers of the user's own, by dotted path and by entry points, in every place that takes a name."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_own_networks import BOMB
from training import assert_same_parameters
from user_parts import Counts, Lines, OwnA3CConfig, QuickA2C, Workers

import rlkit
from rlkit.agents.a2c import A2C, A2CConfig
from rlkit.agents.ppo import PPO, PPOConfig
from rlkit.cli.composition import compose
from rlkit.cli.help import help_text
from rlkit.errors import RlkitError
from rlkit.registry import agent_names, find_agent, make_agent
from rlkit.runs.loggers import find_logger, logger_names
from rlkit.testing import check_agent

ROOT, TESTS = Path(__file__).parent.parent, Path(__file__).parent
EXAMPLE = ROOT / "examples/own_agent.py"
QUICK: dict[str, Any] = {"total_timesteps": 512, "eval_interval": 0, "final_eval_episodes": 1}


def command(*arguments: str, cwd: Path, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs Python with this repository's package, and further folders on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path)))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package as pip installs one, with an agent, a logger, tuned values, and entry points for them."""
    site = tmp_path / "site"
    code, info = site / "shop_of_agents", site / "shop_of_agents-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-of-agents\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rlkit.agents]\nlinear = shop_of_agents.agents:Linear\nbroken = shop_of_agents.nowhere:Linear\n"
        "ppo = shop_of_agents.agents:Linear\n\n[rlkit.loggers]\nlines = shop_of_agents.loggers:Lines\n"
    )
    (code / "tuned/linear").mkdir(parents=True)
    (code / "tuned/linear/CartPole-v1.yaml").write_text("total_timesteps: 640\nagent:\n  num_steps: 40\n")
    (code / "__init__.py").touch()
    shutil.copy(EXAMPLE, code / "agents.py")
    shutil.copy(TESTS / "user_parts.py", code / "loggers.py")
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.split(".")[0] == "shop_of_agents"]:
        del sys.modules[name]


# Agents


def test_an_agent_by_dotted_path_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    """What another name for A2C learns is what A2C learns, and its checkpoint names the class."""
    ours = rlkit.train("a2c", "CartPole-v1", tuned=False, run_dir=tmp_path / "ours", **QUICK)
    own = rlkit.train(QuickA2C, "CartPole-v1", tuned=False, run_dir=tmp_path / "own", **QUICK)
    assert_same_parameters(ours.agent, own.agent)
    assert type(own.agent) is QuickA2C
    assert json.loads((tmp_path / "own/checkpoints/last/agent.json").read_text())["agent"] == "user_parts:QuickA2C"
    loaded = rlkit.load(own.run_dir)
    assert type(loaded) is QuickA2C
    assert_same_parameters(own.agent, loaded)
    assert type(rlkit.load(ours.run_dir)) is A2C


def test_its_fields_are_checked_like_ours() -> None:
    config = compose(["agent=user_parts:Workers", "agent.marker=5", "num_envs=2"])
    assert config.agent == OwnA3CConfig(marker=5)
    assert config.own_classes == {"agent": "user_parts:Workers"}
    assert compose(["agent=ppo"]).own_classes == {}
    with pytest.raises(RlkitError, match=r"unknown key 'agent.marke'; did you mean 'agent.marker'\?"):
        compose(["agent=user_parts:Workers", "agent.marke=5"])
    with pytest.raises(RlkitError, match="agent.gamma=2.0 is out of range"):
        compose(["agent=user_parts:Workers", "agent.gamma=2"])


def test_worker_processes_import_it(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"agent.num_workers": 1, "num_envs": 1}
    result = rlkit.train(Workers, "CartPole-v1", run_dir=tmp_path / "run", **QUICK, **fields)
    assert type(result.agent) is Workers
    assert result.summary["total_timesteps"] == 512


MISTAKES = {
    "linaer": "unknown agent 'linaer'",
    "user_parts": "unknown agent 'user_parts'",
    "user_parts:": "agent=user_parts:: expected package.module:Class",
    "user_part:QuickA2C": "agent=user_part:QuickA2C: there is no module user_part; did you mean user_parts?",
    "user_parts:QuickA2": "agent=user_parts:QuickA2: unknown class 'QuickA2'; did you mean 'QuickA2C'?",
    "user_parts:NoAgent": "agent=user_parts:NoAgent is a class: expected a class that inherits from Agent",
    "user_parts:NoConfig": "agent=user_parts:NoConfig does not say which config it takes; expected `config: MyConf",
    "user_parts:WrongConfig": "agent=user_parts:WrongConfig does not say which config it takes; expected `config: MyC",
    "user_parts:UnknownConfig": "user_parts:UnknownConfig: UnknownConfig says `config: NowhereConfig`, which is no",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_names_that_lead_nowhere_say_so(name: str) -> None:
    for ask in (find_agent, help_text, lambda name: compose([f"agent='{name}'"]), check_agent):
        with pytest.raises(RlkitError) as caught:
            ask(name)
        assert MISTAKES[name] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_class_that_no_file_could_name_is_refused() -> None:
    class Local(PPO):
        pass

    with pytest.raises(RlkitError, match="agent: .*Local is defined inside a function, .* agent=my_module:Local$"):
        rlkit.train(Local)
    agent = Local(PPOConfig(), make_setting())
    with pytest.raises(RlkitError, match="agent: .*Local is defined inside a function"):
        agent.save("nowhere")


def make_setting() -> Any:
    from gymnasium import spaces

    from rlkit.setting import Setting

    return Setting(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))


def test_help_shows_the_fields() -> None:
    text = help_text("user_parts:Workers", ["user_parts:Lines", "user_parts:Counts"])
    assert "agent.marker=1  (int)\n      Nothing depends on it." in text
    assert "agent.num_workers=auto" in text  # which it inherits
    assert "logger.Lines.file=lines.jsonl  (str)\n      Its name in the run folder." in text
    assert "or your own: my_package.module:MyAgent" in text


def test_check_agent_takes_the_path() -> None:
    report = check_agent("user_parts:QuickA2C")
    report.raise_if_failed()
    assert "save and load" in {check.name for check in report.checks}


def test_the_commands_that_the_example_prints_work(tmp_path: Path) -> None:
    """From the working directory in which it was run, which is not the script's own."""
    run = command(str(EXAMPLE), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("evaluate, record: ")]
    printed = line.removeprefix("evaluate, record: ").replace(" video=true", " episodes=3")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    evaluated = subprocess.run(printed, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert evaluated.returncode == 0, (printed, evaluated.stderr)
    assert evaluated.stdout.startswith("linear on CartPole-v1")


def test_a_run_is_trained_swept_and_evaluated_by_command(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path / "mine.py")
    quick = ("env=CartPole-v1", "total_timesteps=512", "eval_interval=0", "final_eval_episodes=1")
    swept = command("-m", "rlkit", "-m", "agent=mine:Linear,a2c", "seed=0,1", *quick, cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    files = sorted(tmp_path.rglob("checkpoints/last/agent.json"))
    assert [json.loads(file.read_text())["agent"] for file in files] == ["mine:Linear"] * 2 + ["a2c"] * 2
    run = files[0].parents[2]
    assert run.name == "0-mine-Linear-CartPole-v1-seed0"
    evaluated = command("-m", "rlkit.evaluate", str(run), "episodes=2", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "linear on CartPole-v1" in evaluated.stdout
    (tmp_path / "mine.py").unlink()
    refused = command("-m", "rlkit.evaluate", str(run), "episodes=2", cwd=tmp_path)
    assert refused.returncode == 2
    assert "agent.json: agent=mine:Linear: there is no module mine" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_code_in_the_run_folder_is_not_executed(tmp_path: Path) -> None:
    """A checkpoint that names an agent beside itself, with the working directory there."""
    result = rlkit.train("a2c", "CartPole-v1", run_dir=tmp_path / "run", **QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlkit.registry.name_of", lambda agent: "bomb:Small")
        result.agent.save(result.run_dir / "checkpoints/best")
    (result.run_dir / "bomb.py").write_text(BOMB)
    refused = command("-m", "rlkit.evaluate", ".", cwd=result.run_dir, path=(TESTS,))
    assert refused.returncode == 2
    assert "agent=bomb:Small is in the folder that is loaded, and nothing in there is executed" in refused.stderr
    assert list(result.run_dir.rglob("exploded")) == []


def test_an_environment_in_the_run_folder_is_not_imported(tmp_path: Path) -> None:
    result = rlkit.train("a2c", "CartPole-v1", run_dir=tmp_path / "run", **QUICK)
    result.agent.env = {"id": "bomb:Walk-v0", "kwargs": {}, "preprocessing": "none"}
    result.agent.save(result.run_dir / "checkpoints/best")
    (result.run_dir / "bomb.py").write_text(BOMB)
    refused = command("-m", "rlkit.evaluate", ".", cwd=result.run_dir, path=(TESTS,))
    assert refused.returncode == 2
    assert "env=bomb:Walk-v0 is in the folder that is loaded, and nothing in there is executed" in refused.stderr
    assert list(result.run_dir.rglob("exploded")) == []


def test_workers_are_promised_by_agents_of_a3c_only(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match="ClaimsWorkers has workers by its config's `abilities`, which agents derived"):
        rlkit.train("user_parts:ClaimsWorkers", "CartPole-v1", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Entry points


def test_an_installed_package_gives_its_agents_names(package: Path, tmp_path: Path) -> None:
    assert agent_names()[-2:] == ["linear", "broken"]
    assert find_agent("linear").path == "shop_of_agents.agents:Linear"
    assert find_agent("ppo").agent is PPO  # ours come first
    assert "ppo_adaptive_kl, trpo" in help_text("linear")
    assert "rainbow, linear, broken, or your own" in help_text("ppo")
    with pytest.raises(RlkitError, match="unknown agent 'linaer'; did you mean 'linear'"):
        compose(["agent=linaer"])
    with pytest.raises(RlkitError, match="agent=shop_of_agents.nowhere:Linear: there is no module shop_of_agents.now"):
        compose(["agent=broken"])
    result = rlkit.train("linear", "CartPole-v1", run_dir=tmp_path / "run", eval_interval=0, final_eval_episodes=1)
    assert result.summary["total_timesteps"] == 640
    description = json.loads((tmp_path / "run/checkpoints/last/agent.json").read_text())
    assert description["agent"] == "shop_of_agents.agents:Linear"
    assert type(rlkit.load(tmp_path / "run")).__name__ == "Linear"


def test_tuned_values_come_from_the_package(package: Path) -> None:
    for name in ("linear", "shop_of_agents.agents:Linear"):
        config = compose([f"agent={name}", "env=CartPole-v1"])
        assert (config.total_timesteps, config.agent.num_steps) == (640, 40)
        assert compose([f"agent={name}", "env=CartPole-v1", "agent.num_steps=9"]).agent.num_steps == 9
        assert compose([f"agent={name}", "env=CartPole-v1", "~tuned"]).agent.num_steps == 64
        assert compose([f"agent={name}", "env=Acrobot-v1"]).agent.num_steps == 64


def test_a_new_process_finds_the_package(package: Path, tmp_path: Path) -> None:
    arguments = (
        "agent=linear",
        "logger=[lines]",
        "logger.lines.file=x.jsonl",
        "total_timesteps=512",
        "eval_interval=0",
    )
    run = command("-m", "rlkit", *arguments, "hydra.run.dir=run", cwd=tmp_path, path=(package,))
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run/x.jsonl").read_text().startswith('{"step": ')
    evaluated = command("-m", "rlkit.evaluate", "run", "episodes=1", cwd=tmp_path, path=(package,))
    assert evaluated.returncode == 0, evaluated.stderr
    gone = command("-m", "rlkit", *arguments, cwd=tmp_path)
    assert gone.returncode == 2
    assert gone.stderr.startswith("error: unknown ")


# Loggers


def test_loggers_by_dotted_path(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"logger": [Lines, "tensorboard", "user_parts:Counts"], "logger.Lines.file": "l.jsonl"}
    result = rlkit.train("a2c", "CartPole-v1", run_dir=tmp_path / "run", **QUICK, **settings)
    with (result.run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (result.run_dir / "l.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [int(row["time/total_timesteps"]) for row in rows]
    assert int((result.run_dir / "count.txt").read_text()) == len(rows)
    assert (result.run_dir / "tensorboard").is_dir()


LOGGER_MISTAKES = {
    "logger=[user_parts:Line]": "logger=user_parts:Line: unknown class 'Line'; did you mean 'Lines'?",
    "logger=[user_part:Lines]": "logger=user_part:Lines: there is no module user_part; did you mean user_parts?",
    "logger=[user_parts:NeverCloses]": "logger=user_parts:NeverCloses has no method `close`; expected a class with",
    "logger=[wand]": "unknown logger 'wand'; did you mean 'wandb'",
    "logger.Lines.file=x": "unknown key 'logger.Lines'",
    "logger=[user_parts:Lines] logger.Lines.fil=x": "unknown key 'logger.Lines.fil'; did you mean 'logger.Lines.file'?",
}


@pytest.mark.parametrize("line", LOGGER_MISTAKES)
def test_loggers_that_cannot_be(line: str) -> None:
    with pytest.raises(RlkitError) as caught:
        compose(line.split())
    assert LOGGER_MISTAKES[line] in str(caught.value)


def test_an_installed_package_gives_its_loggers_names(package: Path) -> None:
    assert logger_names() == ["tensorboard", "wandb", "lines"]
    assert find_logger("lines").path == "shop_of_agents.loggers:Lines"
    config = compose(["logger=[lines,tensorboard]", "logger.lines.file=x.jsonl"])
    assert config.logger["lines"].file == "x.jsonl"
    assert config.own_classes == {"lines": "shop_of_agents.loggers:Lines"}


def test_companion_models_take_own_loggers_and_resume_only_what_is_elsewhere(tmp_path: Path) -> None:
    run = ("-m", "rlkit.perception")
    quick = ("recipe=moons-l2", "fit.epochs=1", "hydra.run.dir=run", "logger=[user_parts:Counts]")
    done = command(*run, *quick, cwd=tmp_path, path=(TESTS,))
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "run/count.txt").read_text()) > 0
    again = command(*run, "resume=run", "fit.epochs=2", cwd=tmp_path, path=(TESTS,))
    assert again.returncode == 0, again.stderr
    for file in (tmp_path / "run/.hydra").iterdir():
        file.write_text(file.read_text().replace("user_parts:Counts", "bomb:Counts"))
    (tmp_path / "run/bomb.py").write_text(BOMB)
    refused = command(*run, "resume=.", "fit.epochs=3", cwd=tmp_path / "run", path=(TESTS,))
    assert refused.returncode == 2
    assert "bomb:Counts is in the folder that is loaded, and nothing in there is executed" in refused.stderr
    assert list(tmp_path.rglob("exploded")) == []


def test_names_of_ours_need_no_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking through all installed packages takes milliseconds, which a run by a known name need not spend."""

    def never(group: str) -> Any:
        raise AssertionError(group)

    monkeypatch.setattr("rlkit.registry.installed", never)
    assert compose(["agent=ppo", "env=CartPole-v1"]).agent == PPOConfig(**vars(compose(["agent=ppo"]).agent))
    assert type(make_agent(A2CConfig(), make_setting())) is A2C


def test_a_logger_without_settings_has_a_config_without_fields() -> None:
    kind = find_logger("user_parts:Counts")
    assert kind.logger is Counts
    assert vars(kind.config()) == {}
