"""Values from Python, from the command line and from stored files are the same values, by one grammar."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import rlkit
from rlkit.agents import VARIANTS
from rlkit.cli.composition import compose, compose_job
from rlkit.errors import RlkitError, nearest
from rlkit.evaluate import parse
from rlkit.perception.config_source import APP
from rlkit.runs import exact_json, hydra_app
from rlkit.runs.grammar import override, with_homes
from rlkit.system.user_paths import user_path

ROOT = Path(rlkit.__file__).resolve().parents[1]
TEXTS = st.text(max_size=8) | st.text("\\${}'\":,[]~ab.1", max_size=8) | st.sampled_from(["yes", "1e3", "1:30", "null"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_value_from_python_is_read_by_all_as_it_is_or_refused(value: Any) -> None:
    try:
        text = override("env_kwargs.x", value)
    except RlkitError as error:
        refused = str(error)
    else:
        _, config = parse(["RUN", text])
        assert repr(config.env_kwargs) == repr({"x": value})
        assert repr(exact_json.from_json(exact_json.to_json(value))) == repr(value)
        return
    assert len(refused.splitlines()) == 1


@settings(max_examples=15, deadline=None)
@given(VALUES)
def test_what_a_run_stores_is_what_it_was_given(value: Any) -> None:
    try:
        text = override("env_kwargs.x", value)
    except RlkitError:
        return
    job = compose_job([text])
    stored: Any = OmegaConf.create(job.hydra_files["config.yaml"])
    (again,) = OmegaConf.create(job.hydra_files["overrides.yaml"])
    assert repr(job.config.env_kwargs) == repr({"x": value})
    assert repr(OmegaConf.to_container(stored.env_kwargs, resolve=True)) == repr({"x": value})
    assert again == text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env_kwargs", {"rewards": {0: 1.0}}),
        ("env_kwargs", {"g:h": 1}),
        ("env_kwargs", {"y": "${y}", "z": "\\${y}", "w": "${oc.env:HOME}"}),
        ("env_kwargs", {"a b": ["no", "0o7", "010", "1_000", "2001-01-01", "~", "=", ""]}),
        ("env_kwargs", {"deep": {-1: {2.5: {True: "x"}}}}),
    ],
)
def test_values_that_look_like_others_stay(key: str, value: dict[str, Any]) -> None:
    config = compose([override(key, value)])
    assert repr(config.env_kwargs) == repr(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"t": {"1": 1}}, "would be read as"),
        ({"t": {"null": 1}}, "cannot be written"),
        ({"t": b"ab"}, "env_kwargs.t=b'ab': expected"),
        ({"t": bytearray(b"ab")}, "env_kwargs.t=bytearray"),
        ({"t": (1, 2)}, "expected a list, [1, 2]"),
        ({"t": range(3)}, "a run's files have no ranges; expected a list, [0, 1, 2]"),
        ({"t": [Path("a")]}, "a run's files have no paths; expected a text, 'a'"),
        ({"t": {"u": float}}, "env_kwargs.t.u=builtins.float: a run's files have no classes"),
        ({"t": "???"}, "the text ??? stands for a value that is missing"),
        ({"t": {1, 2}}, "expected None, a bool"),
        ({"t": {None: 1}}, "the key None"),
        ({"t": 10**5000}, "whole number of 16,610 bits"),
        ({"t": "\udcff"}, "is Unicode"),
        ({"": 1}, "cannot be written"),
    ],
)
def test_values_that_cannot_be_kept_are_refused_in_one_line(value: Any, words: str) -> None:
    with pytest.raises(RlkitError) as error:
        rlkit.train(env_kwargs=value)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None, "one mistake is one error"


def test_a_run_folder_from_python_is_the_one_that_is_named() -> None:
    for name in ("${seed}", "a,b", "it's", "{x}", "[1]"):
        assert compose_job([override("hydra.run.dir", name)]).run_dir == Path.cwd() / name


class Mine:
    pass


@pytest.mark.parametrize("env", [Mine, Mine(), lambda: Mine(), 3])
def test_an_environment_in_place_of_an_id_is_told_how_it_gets_one(env: Any) -> None:
    with pytest.raises(RlkitError, match=r"expected an id, .* gymnasium.register\("):
        rlkit.train(env=env)


# The command lines


def test_evaluation_reads_what_training_reads() -> None:
    arguments = ["seed=010", "env_kwargs={a:1,b:{c:yes,2:[x,1e3]}}", "env_kwargs.d='1'"]
    _, evaluation = parse(["RUN", *arguments, "episodes=1e2"])
    training = compose([*arguments, "total_timesteps=1e6", "eval_interval=1e3"])
    assert (evaluation.seed, evaluation.episodes) == (training.seed, 100) == (10, 100)
    assert repr(evaluation.env_kwargs) == repr(training.env_kwargs)
    assert (repr(training.total_timesteps), repr(training.eval_interval)) == ("1000000", "1000")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("episodes=1,2", "expected one value"),
        ("episodes=2.5", "expected a whole number"),
        ("+foo=1", "unknown key 'foo'"),
        ("device=/a=b", "cannot read 'device=/a=b'"),
        ("env_kwargs={0:1}", "env_kwargs.0: Key 0 (int)"),
    ],
)
def test_what_evaluation_cannot_read_is_one_line(argument: str, words: str) -> None:
    with pytest.raises(RlkitError) as error:
        parse(["RUN", argument])
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "it's me"))
    home = tmp_path / "it's me"
    assert user_path("~/x") == home / "x"
    assert user_path("a/~/x") == Path("a/~/x")
    with pytest.raises(RlkitError, match="no home folder ~nobody-has-this-name"):
        user_path("~nobody-has-this-name/x")
    monkeypatch.setenv("HOME", "/home/me")
    given = ["a=~/x", "a=[~/x,~/y]", "a={b: ~/x}", "a='~/x'", "a=/b/~/c", "~tuned", "a=~", "hydra.sweep.dir='~/x'"]
    assert with_homes(given) == [
        *(
            "a=/home/me/x",
            "a=[/home/me/x,/home/me/y]",
            "a={b: /home/me/x}",
            "a='~/x'",
            "a=/b/~/c",
            "~tuned",
            "a=/home/me",
        ),
        "hydra.sweep.dir='/home/me/x'",
    ]
    assert with_homes(["--config-dir", "~/c", "--config-dir=~/c"]) == [
        "--config-dir",
        "/home/me/c",
        "--config-dir=/home/me/c",
    ]
    assert parse(["~/run"])[0] == Path("/home/me/run")
    for run_dir in ("hydra.run.dir=~/r", "hydra.run.dir='~/r'"):
        assert compose_job([run_dir]).run_dir == Path("/home/me/r")
    with pytest.raises(RlkitError, match="there is no run folder or checkpoint ~/r"):
        rlkit.load("~/r")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("sac", None), ("td3", None), ("train_freq", None), ("a2", "a2c"), ("ppp", "ppo"), ("double-dqn", "double_dqn")],
)
def test_only_a_misspelling_is_corrected(given: str, meant: str | None) -> None:
    assert nearest(given, [*VARIANTS, "agent.learning_rate", "agent.num_steps"]) == meant


# Recipes of companion models


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["recipe=custom-dataset", "model=densenet"], {"growth": 32, "small_input": True}),
        (["recipe=custom-dataset", "model=mlp"], {"dropout": 0.0}),
        (["recipe=vgg11-fashion", "model=resnet"], {"depth": 18, "channel_divisor": 4}),
        (["recipe=resnet18-fashion", "model=vgg", "model.depth=13"], {"depth": 13}),
        (["recipe=custom-dataset", "model=resnet"], {"depth": 18, "small_input": True}),
        (["recipe=custom-dataset"], {"depth": 18, "small_input": True}),
    ],
)
def test_a_recipe_takes_another_model(arguments: list[str], expected: dict[str, Any]) -> None:
    model = hydra_app.compose_job(APP, arguments).config.model
    assert {name: getattr(model, name) for name in expected} == expected


@pytest.mark.parametrize("key", ["model.depth=18", "model.dropuot=0.5"])
def test_a_field_that_the_user_gives_to_a_model_without_it_is_refused(key: str) -> None:
    with pytest.raises(RlkitError, match=f"unknown key '{key.partition('=')[0]}'"):
        hydra_app.compose_job(APP, ["recipe=custom-dataset", "model=densenet", key])


# Clones and the console command


def test_a_clone_without_symbolic_links_works(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "agents", "envs", "conf", "*.so")
    shutil.copytree(ROOT / "rlkit", tmp_path / "rlkit", ignore=ignored)
    for name in ("agents", "envs", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / "rlkit" / name).write_text(f"../{name}")
    done = subprocess.run(
        [sys.executable, "-m", "rlkit", "agent=ppo", "env=CartPole-v1", "--cfg", "job"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "id: CartPole-v1" in done.stdout


def test_the_console_command_finds_a_module_in_the_working_directory(tmp_path: Path) -> None:
    register = "gymnasium.register('Beside-v0', 'gymnasium.envs.classic_control.cartpole:CartPoleEnv')"
    (tmp_path / "beside_me.py").write_text(f"import gymnasium\n{register}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rlkit").write_text("from rlkit.cli.main import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bin" / "rlkit"), "env=beside_me:Beside-v0", "--cfg", "job"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "id: beside_me:Beside-v0" in done.stdout
