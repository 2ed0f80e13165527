"""Runs that are killed between any two of their files: what is left is whole, and goes on or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlkit
from rlkit import perception
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.errors import RlkitError
from rlkit.perception import run as runs
from rlkit.perception.checkpoint import load_model
from rlkit.perception.config_source import APP
from rlkit.registry import make_agent
from rlkit.runs.hydra_app import compose_job
from rlkit.runs.tensor_files import read_tensors, write_tensors
from rlkit.setting import NetworkConfig, Setting

SETTINGS: dict[str, Any] = {
    "data.count": 40,
    "model.hidden_sizes": [4],
    "data.validation": 0.3,
    "fit.epochs": 4,
    "fit.batch_size": 8,
    "fit.learning_rate": 0.3,  # so that the best epoch is not the last
    "fit.checkpoint_interval": 1,
    "fit.restore_best": True,
}
"""A companion run in which some epochs are better than the ones before them, and some are not."""


class Kill(BaseException):
    """The end of a process, after which it writes nothing."""


@contextmanager
def killed_at(instant: int, *, after: bool = False) -> Iterator[list[Path]]:
    """Kills this run before, or right after, the file that it puts into its place as number `instant`, from 0.

    Every later attempt to write fails too. Yields the list of the files that were put into their places.
    """
    written: list[Path] = []
    put = Path.replace

    def replace(temporary: Path, target: Path) -> Path:
        if len(written) == instant and not after:
            raise Kill
        if len(written) > instant:
            raise Kill
        written.append(target)
        result = put(temporary, target)
        if len(written) == instant + 1 and after:
            raise Kill
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        yield written


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time of a small run."""
    monkeypatch.setattr("rlkit.perception.plots.save_figure", lambda figure, path: path)


def companion(run_dir: Path, *, resume: bool = False, **changes: Any) -> Any:
    settings = {**SETTINGS, **changes, "hydra.run.dir": run_dir}
    job = compose_job(APP, ["recipe=moons-depth", *(f"{key}={value}" for key, value in settings.items())])
    return runs.run(job.config, job.run_dir, hydra_files={} if resume else job.hydra_files, resume=resume)


def models(run_dir: Path) -> dict[str, Any]:
    return {which: read_tensors(run_dir / f"checkpoints/{which}/model.safetensors") for which in ("last", "best")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Path]]:
    """A run that nobody kills, and the files that it writes, one after another."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with killed_at(10**6) as written:
        result = companion(run_dir)
    assert 1 < result.summary["best_epoch"] < 4
    return result, [path.relative_to(run_dir) for path in written]


def test_a_companion_run_goes_on_from_every_instant(whole: tuple[Any, list[Path]], tmp_path: Path) -> None:
    result, written = whole
    assert len(written) > 20
    refused = 0
    for instant in range(3, len(written)):  # behind the files of .hydra/, which the command reads
        run_dir = tmp_path / f"{instant}"
        with killed_at(instant), suppress(Kill):
            companion(run_dir)
        checkpoints = [path for path in written[:instant] if path.parts[0] == "checkpoints"]
        for which in ("last", "best"):
            if Path(f"checkpoints/{which}/model.safetensors") in checkpoints:
                load_model(run_dir / "checkpoints" / which)  # each model is whole at every instant
        if Path("checkpoints/last/training.safetensors") not in checkpoints:
            with pytest.raises(RlkitError, match="holds no run that could be resumed"):
                companion(run_dir, resume=True)
            refused += 1
            continue
        resumed = companion(run_dir, resume=True)
        for key in ("best_epoch", "steps", "test_loss", "test_accuracy"):
            assert resumed.summary[key] == result.summary[key], (written[instant], key)
        for which, (tensors, metadata) in models(result.run_dir).items():
            mine, about_mine = models(run_dir)[which]
            assert about_mine == metadata, (written[instant], which)
            assert all(torch.equal(mine[name], tensors[name]) for name in mine | tensors)
    assert refused < 10  # before the first checkpoint was whole


def test_a_run_that_was_killed_twice_goes_on(whole: tuple[Any, list[Path]], tmp_path: Path) -> None:
    result, written = whole
    for instant in (len(written) // 2, len(written) // 2 + 1, len(written) - 4):
        run_dir = tmp_path / f"{instant}"
        with killed_at(instant, after=True), suppress(Kill):
            companion(run_dir)
        with killed_at(3), suppress(Kill):
            companion(run_dir, resume=True)
        assert companion(run_dir, resume=True).summary["test_loss"] == result.summary["test_loss"]


def test_a_folder_of_its_best_epoch_only_is_resumed_if_both_agree(
    whole: tuple[Any, list[Path]], tmp_path: Path
) -> None:
    """Runs of earlier versions keep the best model beside the state that says which epoch it is of."""
    result, _ = whole
    shutil.copytree(result.run_dir, tmp_path / "run")
    file = tmp_path / "run/checkpoints/last/training.safetensors"
    tensors, metadata = read_tensors(file)
    write_tensors(file, {name: one for name, one in tensors.items() if not name.startswith("best.")}, metadata)
    resumed = companion(tmp_path / "run", resume=True)
    assert resumed.summary["test_loss"] == result.summary["test_loss"]
    write_tensors(file, {name: one for name, one in tensors.items() if not name.startswith("best.")}, metadata)
    best = tmp_path / "run/checkpoints/best/model.safetensors"
    tensors, metadata = read_tensors(best)
    write_tensors(best, tensors, {**metadata, "epoch": "1"})
    with pytest.raises(RlkitError, match=r"its best epoch was \d, and .*best/model.safetensors is of epoch 1: the run"):
        companion(tmp_path / "run", resume=True)


def test_a_models_two_files_belong_together(whole: tuple[Any, list[Path]], tmp_path: Path) -> None:
    shutil.copytree(whole[0].run_dir / "checkpoints/best", tmp_path / "best")
    file = tmp_path / "best/model.json"
    description = json.loads(file.read_text())
    for change, message in (
        ({"classes": ["1", "0"]}, "model.safetensors is of another model than the one that model.json describes"),
        ({"inputs": {"mean": [0.5], "std": [1.0], "resize": None}}, "is of another model"),
        ({"recipe": "other"}, "is of another model"),
        ({"classes": ["0", "1", "2"]}, "it names 3 classes, and its model has 2"),
    ):
        file.write_text(json.dumps(description | change))
        with pytest.raises(RlkitError, match=message):
            load_model(tmp_path / "best")
        with pytest.raises(RlkitError, match=message):
            perception.Backbone.load(tmp_path / "best")
    file.write_text(json.dumps(description))
    load_model(tmp_path / "best")


# Agents


def agent(config: Any, hidden: int, seed: int = 0) -> Any:
    env = gym.make("CartPole-v1")
    network = NetworkConfig(hidden_sizes=[hidden])
    return make_agent(config, Setting(env.observation_space, env.action_space, network, seed=seed))


@pytest.mark.parametrize("other", [(PPOConfig(gamma=0.5), 4), (A2CConfig(), 4), (PPOConfig(), 8)])
@pytest.mark.parametrize("after", [False, True])
def test_an_agent_saved_over_another_is_one_of_them_or_refused(tmp_path: Path, other: Any, after: bool) -> None:
    first, second = agent(PPOConfig(), 4), agent(other[0], other[1], seed=1)
    obs = np.zeros((1, 4), np.float32)
    for instant in range(2):
        folder = tmp_path / str(instant)
        first.save(folder)
        with killed_at(instant, after=after) as written, suppress(Kill):
            second.save(folder)
        count = len(written)
        if count == 1:
            with pytest.raises(RlkitError, match=r"model.safetensors is of another agent than the one that agent.json"):
                rlkit.load(folder)
        else:
            expected = (first, second)[count // 2]
            loaded: Any = rlkit.load(folder)
            assert np.array_equal(loaded.value(obs), expected.value(obs))


def test_a_killed_run_of_an_agent_leaves_whole_checkpoints(tmp_path: Path) -> None:
    def train(name: str) -> Any:
        settings: dict[str, Any] = {"num_envs": 2, "eval_episodes": 1, "final_eval_episodes": 1}
        settings |= {"agent.num_steps": 64, "network.hidden_sizes": [4], "eval_interval": 128}
        return rlkit.train(
            agent="a2c", env="CartPole-v1", total_timesteps=512, seed=0, run_dir=tmp_path / name, **settings
        )

    with killed_at(10**6) as written:
        train("whole")
    instants = len(written)
    assert instants > 10
    for instant in range(instants):
        run_dir = tmp_path / f"{instant}"
        with killed_at(instant), suppress(Kill):
            train(f"{instant}")
        for which in ("last", "best"):
            if (run_dir / "checkpoints" / which / "model.safetensors").exists():
                rlkit.load(run_dir / "checkpoints" / which)
            else:
                with pytest.raises(RlkitError, match="holds no saved model|no run folder or checkpoint"):
                    rlkit.load(run_dir / "checkpoints" / which)
