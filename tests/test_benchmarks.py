"""The benchmarks' commands: they run end to end on a small budget, and their arithmetic is right."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"

pytest.importorskip("scipy")
pytest.importorskip("stable_baselines3")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """learning and throughput, which are scripts and no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("learning"), importlib.import_module("throughput")


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_throughput_compares_both_systems_and_writes_what_it_prints(tmp_path: Path) -> None:
    printed = run("throughput.py", "--repetitions", "1", "--timesteps", "2048", "--results", str(tmp_path))
    report = json.loads((tmp_path / "throughput_ppo_cartpole.json").read_text())
    assert [run["system"] for run in report["runs"]] == ["rlkit", "sb3"]
    for measured in report["runs"]:
        assert measured["train_steps_per_s"] > 100
        assert 0 < 2048 / measured["train_steps_per_cpu_s"] < measured["process_cpu_s"]
        assert 8 <= measured["eval_return"] <= 500
    table = (tmp_path / "throughput_ppo_cartpole.md").read_text()
    assert table in printed
    assert f"**{report['summary']['process_wall_s']['ratio']:.2f} ×**" in table


def test_engines_are_timed_in_turn_and_printed_as_written(tmp_path: Path) -> None:
    arguments = ("--repetitions", "1", "--scale", "0.02", "--agents", "a2c", "--results", str(tmp_path))
    printed = run("engines.py", *arguments)
    report = json.loads((tmp_path / "engines.json").read_text())
    for times in report["steps"].values():
        assert 0 < times["step"]["numpy"][0] < times["step"]["torch"][0]
    assert list(report["runs"]) == ["a2c"]
    assert report["runs"]["a2c"]["steps_per_cpu_s"]["numpy"][0] > 100
    assert (tmp_path / "engines.md").read_text() in printed


def test_throughput_takes_medians_and_ratios_the_right_way_round(modules: Any) -> None:
    _, throughput = modules
    values = {"rlkit": [3.0, 1.0, 2.0], "sb3": [10.0, 4.0, 8.0]}
    runs = [{"system": name, **dict.fromkeys(throughput.MEASURES, v)} for name in values for v in values[name]]
    summary = throughput.summary(runs)
    assert summary["process_wall_s"] == {
        "rlkit": {"median": 2.0, "min": 1.0, "max": 3.0},
        "sb3": {"median": 8.0, "min": 4.0, "max": 10.0},
        "ratio": 4.0,  # a quarter of the time is four times better
    }
    assert summary["train_steps_per_s"]["ratio"] == 0.25
    assert "ratio" not in summary["eval_return"]


def test_learning_trains_what_is_missing_and_keeps_what_is_there(modules: Any, tmp_path: Path) -> None:
    learning, _ = modules
    done = {"seed": 0, "total_timesteps": 256, "eval_return_mean": 30.0, "eval_episodes": 100}
    learning.write_row(learning.csv_file(tmp_path, learning.SUITE[0]), done)
    few = ("--env", "CartPole-v1", "--seeds", "2", "--results", str(tmp_path), "total_timesteps=256")
    assert "1 of 2 runs to do" in run("learning.py", *few)
    with (tmp_path / "learning" / "ppo_CartPole-v1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["total_timesteps"], row["eval_episodes"]) for row in rows] == [
        ("0", "256", "100"),
        ("1", "256", "100"),
    ]
    mean = (30.0 + float(rows[1]["eval_return_mean"])) / 2
    assert f"| ppo | CartPole-v1 | 256 | 2 | {mean:.1f} [" in learning.table(tmp_path)


def test_learnings_interval_is_over_seeds(modules: Any) -> None:
    learning, _ = modules
    low, high = learning.interval([400.0, 450.0, 500.0, 500.0])
    assert 400 <= low < 462.5 < high <= 500
    assert learning.interval([500.0] * 10) == (500.0, 500.0)
    assert learning.interval([7.0]) == (7.0, 7.0)


def test_replay_measures_a_buffer() -> None:
    figures = json.loads(run("replay.py", "--one", "rlkit", "Atari"))
    assert figures["bytes"] == pytest.approx(84 * 84, rel=0.1)
    assert min(figures["adds"], figures["samples"], figures["prioritized_samples"]) > 0
