"""Runs that are interrupted at random instants and resumed, beside the same runs uninterrupted.

    python benchmarks/resume.py                     # every row of RUNS, and Stable-Baselines3's PPO and DQN
    python benchmarks/resume.py --kills 20          # kill -9 at random instants, in processes of their own
    python benchmarks/resume.py --cost              # the CPU time that checkpoints take

Each writes a row as soon as it is done, and skips what is there: results/resume.csv, resume_kills.csv, resume_cost.csv.
The difference is the largest one of any number in the model of checkpoints/last; for SB3, in its policy's parameters,
after `save`, `load` and `learn(reset_num_timesteps=False)`.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learning import write_row
from safetensors.numpy import load_file

import rlkit
from rlkit.trainer import Trainer

RESULTS = Path(__file__).resolve().parent / "results"
CUTS = 2
"""Interruptions of each run."""
DQN = {"agent.learning_starts": 200, "agent.num_steps": 4, "agent.gradient_steps": 2}
STICKLESS = {"env_kwargs": {"repeat_action_probability": 0.0}}
UNSEEN = {"eval_interval": 0, "final_eval_episodes": 0}
ATARI = {**DQN, **STICKLESS, **UNSEEN, "agent.replay.size": 1000, "num_envs": 2}
SHORT = {"eval_episodes": 2, "final_eval_episodes": 2, "verbose": False, "curves": False}
RUNS: list[tuple[str, str, str, int, dict[str, Any]]] = [
    *[
        (agent, "CartPole-v1", vectorization, 4_000, {})
        for agent in ("ppo", "ppo_kl", "a2c", "trpo", "reinforce", "reinforce_baseline")
        for vectorization in ("sync", "async", "native")
    ],
    *[
        (agent, "CartPole-v1", vectorization, 1_000, {**DQN, "num_envs": 2})
        for agent in ("dqn", "double_dqn", "rainbow")
        for vectorization in ("sync", "async", "native")
    ],
    *[
        (agent, "LunarLander-v3", vectorization, 4_000, {"num_envs": 4})
        for agent in ("ppo", "a2c", "trpo", "reinforce")
        for vectorization in ("sync", "async")
    ],
    ("dqn", "LunarLander-v3", "sync", 2_000, DQN),
    *[(agent, "Taxi-v4", "sync", 4_000, {}) for agent in ("sarsa", "expected_sarsa", "q_learning", "ppo")],
    ("sarsa", "CartPole-v1", "sync", 2_000, {}),
    ("dqn", "ALE/Pong-v5", "sync", 400, ATARI),
    ("ppo", "ALE/Pong-v5", "async", 512, {**UNSEEN, **STICKLESS, "num_envs": 2, "agent.num_steps": 64}),
]
ERRORS = Path(tempfile.gettempdir()) / "rlkit-resume-errors.txt"
"""The output of the run that was started last."""
COLUMNS = ("agent", "env", "vectorization", "timesteps", "cuts", "difference", "rows_equal", "evaluation_equal")
KILL_COLUMNS = ("case", "agent", "env", "kills", "difference", "rows_equal")
KILLED = (("ppo", "CartPole-v1", 60_000), ("dqn", "CartPole-v1", 12_000), ("reinforce", "CartPole-v1", 40_000))
COST_COLUMNS = ("agent", "env", "timesteps", "replay", "training_cpu_s", "checkpoints_cpu_s", "share")
TIMES = ("time/steps_per_second", "time/training_time_s")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="so many runs that are killed")
    parser.add_argument("--cost", action="store_true", help="measure what checkpoints cost")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.kills:
            measure_kills(Path(folder), arguments.kills)
        elif arguments.cost:
            measure_cost(Path(folder))
        else:
            measure_resumed(Path(folder))


def measure_resumed(folder: Path) -> None:
    """Interrupts and resumes every run of RUNS, and SB3's."""
    file = RESULTS / "resume.csv"
    for agent, env, vectorization, timesteps, fields in RUNS:
        key = (agent, env, vectorization)
        if key in done(file, 3):
            continue
        settings = {**SHORT, **fields, "vectorization": vectorization, "total_timesteps": timesteps}
        found = compared(folder, agent, env, settings)
        record(file, COLUMNS, (*key, timesteps, CUTS, *found))
    for name in ("PPO", "DQN"):
        if (f"sb3_{name.lower()}", "CartPole-v1", "sync") not in done(file, 3):
            row = (f"sb3_{name.lower()}", "CartPole-v1", "sync", 8_000, 1, sb3_difference(folder, name), "", "")
            record(file, COLUMNS, row)


def compared(folder: Path, agent: str, env: str, settings: dict[str, Any]) -> tuple[float, bool, bool]:
    """Trains without and with interruptions; returns the difference, and if rows and the evaluation are equal."""
    whole, cut = folder / "whole", folder / "cut"
    for path in (whole, cut):
        shutil.rmtree(path, ignore_errors=True)
    expected = rlkit.train(agent, env, tuned=False, run_dir=whole, **settings)
    instants = sorted(random.Random(f"{agent} {env} {settings}").uniform(0.05, 0.95) for _ in range(CUTS))
    run: Callable[[], Any] = lambda: rlkit.train(agent, env, tuned=False, run_dir=cut, **settings)  # noqa: E731
    for instant in [*instants, 2.0]:
        try:
            found = interrupted(run, instant)
            break
        except KeyboardInterrupt:
            run = lambda: rlkit.train(resume=cut)  # noqa: E731
    evaluations = [result.summary["eval_return_mean"] for result in (expected, found)]
    return difference(whole, cut), rows(whole) == rows(cut), evaluations[0] == evaluations[1]


def interrupted(run: Callable[[], Any], instant: float) -> Any:
    """Asks a run to stop after a share of its budget, which it does by KeyboardInterrupt; else returns its result."""
    advance = Trainer.advance

    def advance_and_stop(self: Trainer) -> Any:
        result = advance(self)
        self.stopping = self.stopping or self.spent >= instant
        return result

    Trainer.advance = advance_and_stop  # type: ignore[method-assign]
    try:
        return run()
    finally:
        Trainer.advance = advance  # type: ignore[method-assign]


def measure_kills(folder: Path, count: int) -> None:
    """Kills runs again and again until they have ended, and compares them with runs that were left alone."""
    file = RESULTS / "resume_kills.csv"
    rng = random.Random(0)
    for case in range(count):
        agent, env, timesteps = KILLED[case % len(KILLED)]
        patience = [rng.uniform(2, 4.5) for _ in range(20)]
        if (str(case),) in done(file, 1):
            continue
        whole, cut = folder / f"whole-{agent}", folder / f"cut-{case}"
        fields = [f"agent={agent}", f"env={env}", f"total_timesteps={timesteps}", "curves=false"]
        if not whole.exists():
            command(*fields, f"hydra.run.dir={whole}").wait()
        kills = 0
        process = command(*fields, f"hydra.run.dir={cut}")
        while not ended(process, patience[kills]):
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            resumable = (cut / "checkpoints" / "last" / "training.safetensors").exists()
            if not resumable:  # killed before its first checkpoint
                shutil.rmtree(cut, ignore_errors=True)
            process = command(f"resume={cut}") if resumable else command(*fields, f"hydra.run.dir={cut}")
        found = (case, agent, env, kills, difference(whole, cut), rows(whole) == rows(cut))
        record(file, KILL_COLUMNS, found)


def command(*arguments: str) -> subprocess.Popen[bytes]:
    """Starts a run in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "rlkit", *arguments], stderr=ERRORS.open("w"))


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Returns True if the process ends within so many seconds; raises RuntimeError if it fails."""
    try:
        if process.wait(timeout=seconds):
            raise RuntimeError(f"{process.args!r} failed: {ERRORS.read_text()[-2000:]}")
    except subprocess.TimeoutExpired:
        return False
    return True


def measure_cost(folder: Path) -> None:
    """Measures the CPU time of all checkpoints of a run as a share of its training."""
    file = RESULTS / "resume_cost.csv"
    for agent, env, timesteps, replay in (
        ("ppo", "CartPole-v1", 100_000, None),
        ("dqn", "CartPole-v1", 50_000, 100_000),
        ("sarsa", "Taxi-v4", 100_000, None),
    ):
        if (agent, env) in done(file, 2):
            continue
        spent, save_all = [0.0], Trainer.save_all

        def timed(self: Trainer, save_all: Any = save_all, spent: list[float] = spent) -> None:
            before = time.process_time()
            save_all(self)
            spent[0] += time.process_time() - before

        Trainer.save_all = timed  # type: ignore[method-assign]
        fields = {"agent.replay.size": replay} if replay else {}
        result = rlkit.train(agent, env, total_timesteps=timesteps, run_dir=folder / agent, **{**SHORT, **fields})  # type: ignore[arg-type]
        Trainer.save_all = save_all  # type: ignore[method-assign]
        training = result.summary["training_cpu_s"]
        row = (agent, env, timesteps, replay or "", training, round(spent[0], 3), f"{spent[0] / training:.2%}")
        record(file, COST_COLUMNS, row)


def sb3_difference(folder: Path, name: str) -> float:
    """The largest difference between SB3's parameters after training at once, and after a reload half-way."""
    import stable_baselines3

    kind: Any = getattr(stable_baselines3, name)

    def made() -> Any:
        return kind("MlpPolicy", "CartPole-v1", seed=0, device="cpu")

    whole = made().learn(8_000)
    made().learn(4_096).save(folder / "half.zip")
    half = kind.load(folder / "half.zip", device="cpu")
    half.set_env(made().get_env())
    half.learn(8_000 - 4_096, reset_num_timesteps=False)
    one, other = whole.policy.state_dict(), half.policy.state_dict()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def difference(one: Path, other: Path) -> float:
    """The largest difference between the models of two runs."""
    first, second = (load_file(path / "checkpoints" / "last" / "model.safetensors") for path in (one, other))
    return max(float(np.abs(first[key].astype(np.float64) - second[key]).max(initial=0)) for key in first)


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics, without times."""
    with (folder / "metrics.csv").open() as file:
        return [
            {key: value for key, value in row.items() if value and key not in TIMES} for row in csv.DictReader(file)
        ]


def record(file: Path, columns: Sequence[str], values: Sequence[Any]) -> None:
    """Appends a row to a file, and prints it."""
    write_row(file, dict(zip(columns, values, strict=True)), columns)
    print(*values, flush=True)


def done(file: Path, columns: int) -> set[tuple[str, ...]]:
    """The first columns of the rows that are there already."""
    if not file.exists():
        return set()
    with file.open() as opened:
        return {tuple(row[:columns]) for row in csv.reader(opened)}


if __name__ == "__main__":
    main()
