"""The benchmarks' commands: they run end to end on a small budget, and their arithmetic is right."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
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
    few = ("--repetitions", "1", "--timesteps", "2048", "--results", str(tmp_path))
    printed = run("throughput.py", *few, "--systems", "rlkit", "sb3")
    report = json.loads((tmp_path / "throughput_ppo_cartpole.json").read_text())
    assert [run["system"] for run in report["runs"]] == ["rlkit", "sb3"]
    assert report["profile"]["timesteps"] == 2048
    for measured in report["runs"]:
        assert measured["train_steps_per_s"] > 0
        assert 0 < 2048 / measured["train_steps_per_cpu_s"] < measured["process_cpu_s"]
        assert measured["gradient_steps"] == 2048 // (8 * 32) * 20
        assert 8 <= measured["eval_return"] <= 500
        assert (measured["solved_s"] is None) or 0 < measured["solved_s"] < measured["process_wall_s"]
    table = (tmp_path / "throughput_ppo_cartpole.md").read_text()
    assert table in printed
    assert f"**{report['summary']['process_wall_s']['ratio']:.2f} ×**" in table


@pytest.mark.filterwarnings("default")  # of Stable-Baselines3
@pytest.mark.parametrize("name", ["ppo_cartpole", "a2c_cartpole", "dqn_cartpole", "dqn_cartpole_every_4"])
def test_a_workload_is_the_same_work_in_both_systems(
    modules: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workloads, timed_training = (importlib.import_module(module) for module in ("workloads", "timed_training"))
    # As many evaluations and episodes as ever would take longer than what is tested.
    monkeypatch.setattr(timed_training, "EVALUATIONS", 1)
    monkeypatch.setattr(timed_training, "EVAL_EPISODES", 1)
    monkeypatch.setattr(timed_training, "FINAL_EVAL_EPISODES", 1)
    trained = {}
    systems = ["rlkit", "torch", "sb3", "single_file"] if name in ("ppo_cartpole", "dqn_cartpole") else ["rlkit", "sb3"]
    for system in systems:
        (tmp_path / system).mkdir()
        clock = timed_training.Clock()
        trained[system] = timed_training.TRAIN[system](workloads.WORKLOADS[name], tmp_path / system, 1280, 0, clock)
        assert clock.cpu_s > 0
    ours, theirs = trained["rlkit"], trained["sb3"]
    if "torch" in trained:
        assert trained["torch"][:2] == ours[:2]
    gradient_steps = {
        "ppo_cartpole": 1280 // (8 * 32) * 20,
        "a2c_cartpole": 1280 // (8 * 5),
        "dqn_cartpole": 2 * 128,  # after 1024 steps, the first of which are more than learning_starts, and after 1280
        "dqn_cartpole_every_4": (1280 - 1000) // 4 + 1,
    }[name]
    assert (ours.steps, ours.gradient_steps) == (theirs.steps, theirs.gradient_steps) == (1280, gradient_steps)
    if "single_file" in trained:
        assert (trained["single_file"].steps, trained["single_file"].gradient_steps) == (1280, gradient_steps)


def test_workloads_name_the_same_hyperparameters_in_sb3(modules: Any) -> None:
    workloads = importlib.import_module("workloads").WORKLOADS
    # With a gradient step after every fourth step, 125 gradient steps are 500 environment steps.
    assert workloads["dqn_cartpole_every_4"].sb3_arguments()["target_update_interval"] == 500
    assert workloads["dqn_cartpole"].sb3_arguments()["target_update_interval"] == 256
    assert workloads["dqn_cartpole"].sb3_arguments()["learning_rate"](0.5) == 0.5 * 2.3e-3  # half of the run remains
    assert workloads["a2c_cartpole"].sb3_arguments()["learning_rate"] == 7e-4
    assert workloads["ppo_cartpole"].sb3_arguments()["clip_range"](0.25) == 0.05


def test_engines_are_timed_in_turn_and_printed_as_written(tmp_path: Path) -> None:
    arguments = ["--repetitions", "1", "--scale", "0.02", "--agents", "a2c", "--results", str(tmp_path)]
    printed = run("engines.py", *arguments, "--engines", "torch", "native")
    report = json.loads((tmp_path / "engines.json").read_text())
    for times in report["steps"].values():
        assert min(times["step"]["native"][0], times["step"]["torch"][0]) > 0
    assert list(report["runs"]) == ["a2c"]
    assert report["runs"]["a2c"]["steps_per_cpu_s"]["native"][0] > 0
    assert (tmp_path / "engines.md").read_text() in printed


def test_throughput_takes_medians_and_ratios_the_right_way_round(modules: Any) -> None:
    _, throughput = modules
    values = {"rlkit": [3.0, 1.0, 2.0], "sb3": [10.0, 4.0, 8.0]}
    runs = [{"system": name, **dict.fromkeys(throughput.MEASURES, v)} for name in values for v in values[name]]
    for run, found in zip(runs, [None, 1.0, 2.0] + [4.0] * 3, strict=True):
        run["solved_s"] = found
    summary = throughput.summary(runs)
    assert summary["solved_s"] == {"sb3": {"median": 4.0, "min": 4.0, "max": 4.0}}, "one of rlkit's runs did not"
    assert summary["process_wall_s"] == {
        "rlkit": {"median": 2.0, "min": 1.0, "max": 3.0},
        "sb3": {"median": 8.0, "min": 4.0, "max": 10.0},
        "ratio": 4.0,  # a quarter of the time is four times better
    }
    assert summary["train_steps_per_s"]["ratio"] == 0.25
    assert "ratio" not in summary["eval_return"]


def test_throughput_compares_with_sb3s_fastest_number_of_environments(modules: Any) -> None:
    _, throughput = modules
    speeds = {"rlkit": 60.0, "torch": 45.0, "sb3:8": 10.0, "sb3:32": 30.0, "sb3:128": 20.0}
    runs = [{"system": name, **dict.fromkeys(throughput.MEASURES, value)} for name, value in speeds.items()]
    assert throughput.summary(runs)["train_steps_per_s"]["ratio"] == 2.0
    runs[2]["train_steps_per_s"] = 40.0  # on several cores the fastest is the one that takes the least time
    assert throughput.rate({"cores": 1}) == "train_steps_per_cpu_s" != throughput.rate({"cores": 2})
    assert throughput.summary(runs, throughput.rate({"cores": 2}))["train_steps_per_s"]["ratio"] == 1.5
    workloads = importlib.import_module("workloads").WORKLOADS
    native = workloads["ppo_native_1024"]
    assert throughput.systems_of(native) == ["rlkit", "sb3:32", "sb3:128"]
    assert throughput.systems_of(workloads["dqn_cartpole"]) == ["rlkit", "sb3", "single_file"]
    assert throughput.systems_of(workloads["a2c_cartpole"]) == ["rlkit", "sb3"]
    for num_envs in native.sb3_num_envs:
        assert native.sb3_arguments(num_envs)["n_steps"] * num_envs == 32 * 1024


def test_learning_trains_what_is_missing_and_keeps_what_is_there(modules: Any, tmp_path: Path) -> None:
    learning, _ = modules
    done = {"seed": 0, "total_timesteps": 256, "eval_return_mean": 30.0, "eval_episodes": 100}
    learning.write_row(learning.csv_file(tmp_path, learning.SUITE[0]), done)
    few = ("--agent", "ppo", "--env", "CartPole-v1", "--seeds", "2", "--results", str(tmp_path), "total_timesteps=256")
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


def test_torchrun_compares_two_processes_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    torchrun = importlib.import_module("torchrun")
    speeds = {1: [100.0, 300.0, 200.0], 2: [500.0, 100.0, 300.0]}
    runs = [
        {"case": "a2c", "processes": p, "seed": s, "steps_per_second": v, "eval_return_mean": v / p, "load_before": p}
        for p in speeds
        for s, v in enumerate(speeds[p])
    ]
    text = torchrun.table({"machine": "a machine", "runs": runs})
    assert "| 3 | 200 (100 – 300) | 300 (100 – 500) | **1.50 ×** | 200.0 | 150.0 |" in text
    assert "at most 2." in text
    assert "PPO" not in text  # of which there are no runs


def test_parallel_compares_each_way_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    parallel = importlib.import_module("parallel")
    first, _, a3c, *_ = parallel.WAYS
    runs = [{"task": "fast", "way": first, "steps_per_s": rate} for rate in (100.0, 400.0, 200.0)]
    runs += [{"task": "fast", "way": a3c, "steps_per_s": 300.0}]
    rows = parallel.table({"machine": "a machine", "runs": runs}).splitlines()
    assert f"| {first} | 200 (100 – 400), 1.00 × | not measured | not measured |" in rows
    assert f"| {a3c} | 300 (300 – 300), 1.50 × | not measured | not measured |" in rows


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


def test_variants_runs_what_is_missing_and_compares_it(modules: Any, tmp_path: Path) -> None:
    variants = importlib.import_module("variants")
    cliffwalk = next(experiment for experiment in variants.SUITE if experiment.name == "cliffwalk")
    for variant, seed in (("uniform", 0), ("prioritized", 0), ("uniform", 1)):
        done = {"variant": variant, "seed": seed, "budget": 160, "gradient_steps": 160.0, "solved": 0.0}
        variants.write_row(tmp_path, cliffwalk, done)
    few = ("--experiment", "cliffwalk", "--seeds", "2", "--budget", "160", "--results", str(tmp_path))
    assert "1 of 4 runs to do" in run("variants.py", *few)
    last = variants.read_rows(tmp_path, cliffwalk)[3:]
    assert [(row["variant"], row["seed"], row["gradient_steps"]) for row in last] == [("prioritized", "1", "160.0")]
    table = variants.table(tmp_path)
    assert "## cliffwalk: prioritized, compared with uniform" in table
    assert "| 160.0 [160.0, 160.0] | 160.0 [160.0, 160.0] | 0.0 [0.0, 0.0] | 1 | no difference shown |" in table


def test_variants_of_the_maximisation_bias_start_alike(modules: Any) -> None:
    variants = importlib.import_module("variants")
    variants.register_environments()
    measures = [variants.maximisation_bias({"double": double}, 0, 320) for double in (False, True)]
    assert measures[0]["bias_quarter_1"] == measures[1]["bias_quarter_1"]  # nothing is learned from 80 transitions
    assert measures[0]["bias"] != measures[1]["bias"]
    quarters = [measures[0][f"bias_quarter_{i}"] for i in range(1, 5)]
    assert measures[0]["bias"] == pytest.approx(np.mean(quarters), abs=0.02)
    assert 0 <= measures[0]["wrong_share"] <= 1


def test_variants_environments_are_those_of_the_books(modules: Any) -> None:
    variants = importlib.import_module("variants")
    biased = variants.MaximisationBias()
    biased.reset(seed=0)
    assert biased.action_masks().sum() == 2
    assert biased.step(biased.RIGHT)[1:4] == (0.0, True, False)
    rewards = []
    for action in range(2000):
        biased.reset()
        assert biased.step(biased.LEFT)[:4] == (biased.B, 0.0, False, False)
        assert biased.action_masks().all()
        rewards.append(biased.step(action % 10)[1])
    assert sum(rewards) / len(rewards) == pytest.approx(-0.1, abs=0.1)
    cliff = variants.BlindCliffwalk(4)
    for actions, rewards in {(0, 1, 0, 1): [0, 0, 0, 1], (0, 1, 1): [0, 0, 0], (1,): [0]}.items():
        cliff.reset()
        steps = [cliff.step(action) for action in actions]
        assert [step[1] for step in steps] == rewards
        assert [step[2] for step in steps] == [False] * (len(actions) - 1) + [True]


def test_variants_memory_of_the_cliffwalk_holds_every_sequence_once(
    modules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = importlib.import_module("variants")
    variants.register_environments()
    buffers: list[Any] = []
    monkeypatch.setattr(variants.DQN, "update", lambda agent, buffer, progress: buffers.append(buffer))
    assert variants.cliffwalk({}, 0, 10, states=4)["gradient_steps"] == 10
    stored = buffers[0].sample(5000, np.random.default_rng(0))
    _, first = np.unique(stored.rows, return_index=True)
    assert len(first) == 30
    assert stored.reward[first].sum() == 1
    states, actions = stored.obs[0][first].ravel(), stored.action[first]
    assert [np.count_nonzero(states == state) for state in range(4)] == [16, 8, 4, 2]
    assert [np.count_nonzero(actions[states == state]) for state in range(4)] == [8, 4, 2, 1]


def test_variants_differences_have_intervals(modules: Any) -> None:
    variants = importlib.import_module("variants")
    low, high = variants.difference([1.0, 2.0, 3.0, 2.0], [11.0, 12.0, 13.0, 12.0])
    assert -12 < low < -10 < high < -8
    assert variants.compared([1.0, 2.0, 3.0], [11.0, 12.0, 13.0]).endswith("| lower")
    assert variants.compared([11.0, 12.0, 13.0], [1.0, 2.0, 3.0]).endswith("| higher")
    assert variants.compared([1.0, 9.0, 4.0], [3.0, 4.0, 8.0]).endswith("| no difference shown")
    assert variants.difference([5.0, 5.0], [2.0, 2.0]) == (3.0, 3.0)


def test_a3cs_table_has_ratios_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    a3c = importlib.import_module("a3c")
    rates = {1: [90.0, 100.0, 500.0], 2: [180.0], 4: [300.0], 8: [400.0]}
    runs = [
        {"what": f"CartPole-v1, 4 per worker, {workers} workers", "steps_per_s": rate}
        for workers, found in rates.items()
        for rate in found
    ]
    runs += [{"what": "SB3", "steps_per_s": 40.0}, {"what": "Hogwild", "lost": 0.0123}]
    table = a3c.markdown({"runs": runs, "command": "the command", "machine": "a machine"})
    assert "| CartPole-v1 | 4 | 100 | 180 | 300 | 400 | 1.80 × | 4.00 × |" in table
    assert "SB3's A2C, 8 environments: 40. Two workers: 4.5 × with 4 per worker." in table
    assert "1.23%" in table


def test_agents_on_frames_are_compared_on_the_cpu_too(tmp_path: Path) -> None:
    few = ("--device", "cpu", "--repetitions", "1", "--timesteps", "260", "--settings", "float32")
    printed = run("gpu.py", *few, "--only", "runs", "--works", "dqn", "--results", str(tmp_path))
    report = json.loads((tmp_path / "gpu_cpu.json").read_text())
    (ours,), (theirs,) = report["runs"]["dqn"].values()
    assert ours["steps"] == theirs["steps"] == 260
    assert ours["gradient_steps"] == theirs["gradient_steps"] == 2  # after 256 steps, and after 260
    table = (tmp_path / "gpu_cpu.md").read_text()
    assert table in printed
    assert f"**{ours['steps_per_s'] / theirs['steps_per_s']:.2f} ×**" in table
    assert "no GPU was at hand" in table


def test_vector_environments_are_counted_by_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    vector_envs = importlib.import_module("vector_envs")
    now = 0.0

    def step(index: int) -> None:
        nonlocal now
        now += 0.002

    with monkeypatch.context() as patch:
        patch.setattr(vector_envs, "time", SimpleNamespace(perf_counter=lambda: now))
        assert vector_envs.rate(step, 0.1) == pytest.approx(500)
    monkeypatch.setattr(vector_envs, "rate", lambda step, seconds: (step(0), 10.0)[1])
    assert vector_envs.speed("CartPole-v1", 8, "native", 0.01) == "80"
    assert vector_envs.speed("Acrobot-v1", 8, "native", 0.01) == "–"


def test_other_libraries_are_measured_by_an_environment_of_their_own(modules: Any, tmp_path: Path) -> None:
    throughput = modules[1]
    python = Path(sys.executable)
    assert throughput.found_peers([python], ["numpy", "no-such-package"]) == {"numpy": (python, np.__version__)}
    with pytest.raises(SystemExit, match="has none of no-such-package"):
        throughput.found_peers([python], ["no-such-package"])
    assert "Tianshou 2.0.1" in throughput.title(
        "tianshou", {"rlkit": "1", "stable-baselines3": "2", "tianshou": "2.0.1"}
    )


def test_time_of_compiling_is_left_out_once(monkeypatch: pytest.MonkeyPatch, modules: Any) -> None:
    peers, timed = importlib.import_module("peers"), importlib.import_module("timed_training")
    assert peers.covered([(5.0, 6.0), (1.0, 4.0), (2.0, 3.0), (3.5, 4.5)]) == 4.5
    assert peers.covered([]) == 0
    times = iter([10.0, 1.0, 20.0, 6.0])  # 10 seconds, and 5 of CPU time
    clocks = SimpleNamespace(perf_counter=lambda: next(times), process_time=lambda: next(times))
    monkeypatch.setattr(timed, "time", clocks)
    clock = timed.Clock()
    with clock.running():
        pass
    clock.exclude_compiling(4.0)
    assert (clock.wall_s, clock.cpu_s, clock.compile_s) == (6.0, 3.0, 4.0)


def test_systems_without_evaluations_are_compared_with_the_floor(modules: Any) -> None:
    throughput = modules[1]
    profile = {"timesteps": 1000, "floor": {"env_seconds": 0.2, "products_seconds": 0.3}}
    speeds = {"rlkit": {"median": 1500.0}, "sbx": {"median": 500.0}}
    report = {"profile": profile, "summary": {"train_steps_per_cpu_s": speeds}}
    times, shares = throughput.rows_beside(report, ["rlkit", "sbx"])
    assert times.endswith("| 1.00 | 3.00 | |")
    assert shares.endswith("(2,000) | 75% | 25% | |")


@pytest.mark.parametrize(("system", "package"), [("tianshou", "tianshou"), ("torchrl", "torchrl")])
@pytest.mark.parametrize(("workload", "gradient_steps"), [("ppo_cartpole", 100), ("dqn_cartpole", 2 * 128)])
def test_their_trainers_do_the_same_work(
    modules: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    system: str,
    package: str,
    workload: str,
    gradient_steps: int,
) -> None:
    pytest.importorskip(package)
    peers, workloads, timed = (importlib.import_module(name) for name in ("peers", "workloads", "timed_training"))
    for name in ("EVALUATIONS", "EVAL_EPISODES", "FINAL_EVAL_EPISODES"):
        monkeypatch.setattr(peers, name, 1)
    clock = timed.Clock()
    trained = timed.TRAIN[system](workloads.WORKLOADS[workload], tmp_path, 1280, 0, clock)
    assert trained.steps == 1280
    assert trained.gradient_steps >= gradient_steps
    assert clock.cpu_s > 0
