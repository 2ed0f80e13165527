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


def test_book_trains_what_is_missing_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    book, learning = importlib.import_module("book"), importlib.import_module("learning")
    ppo2 = next(experiment for experiment in book.EXPERIMENTS if experiment.name == "book_ppo2")
    curve = {str(episode): 30.0 for episode in ppo2.grid}
    row = {"seed": 0, "total_timesteps": 400, "eval_return_mean": 480.0, "eval_episodes": 100, **curve}
    learning.write_row(ppo2.csv_file(tmp_path), row, [*learning.COLUMNS, *curve])
    few = ("--name", "book_ppo2", "--seeds", "2", "--results", str(tmp_path))
    assert "1 of 2 runs to do" in run("book.py", *few, "total_timesteps=400")
    with ppo2.csv_file(tmp_path).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["total_timesteps"], row["eval_episodes"]) for row in rows] == [
        ("0", "400", "100"),
        ("1", "400", "100"),
    ]
    assert 8 < float(rows[1]["10"]) < 100
    assert rows[1]["500"] == "nan", "the run ended long before"
    mean = (480.0 + float(rows[1]["eval_return_mean"])) / 2
    table = book.table(tmp_path)
    assert f"| `experiment=book_ppo2` | 500 | 400 | 2 | {mean:.1f} [" in table
    assert "| 1 of 2 |" in table
    book.plot(tmp_path)
    figure = (tmp_path / "book.svg").read_text()
    assert len(figure) < 300_000
    assert ">PPO2</text>" in figure


def test_books_curves_are_means_over_equal_numbers_of_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    book = importlib.import_module("book")
    values = [("2", "10"), ("", ""), ("5", "40"), ("6", "70")]  # two episodes of 10, three of 40, one of 70
    rows = [{"time/total_episodes": count, "rollout/episode_return": mean} for count, mean in values]
    assert book.resampled(rows, [2, 4, 6]) == pytest.approx([10, 40, 55])
    assert book.resampled(rows, [3, 6]) == pytest.approx([20, 50])
    assert str(book.resampled(rows, [6, 7])[1]) == "nan"


def test_replay_measures_a_buffer() -> None:
    figures = json.loads(run("replay.py", "--one", "rlkit", "Atari"))
    assert figures["bytes"] == pytest.approx(84 * 84, rel=0.1)
    assert min(figures["adds"], figures["samples"], figures["prioritized_samples"]) > 0
