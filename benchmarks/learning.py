"""Returns of rlkit's agents with their tuned values, beside RL Zoo's published returns.

    python benchmarks/learning.py [--agent ppo] [--env CartPole-v1] [--seeds 10] [--jobs 2]
    python benchmarks/learning.py --table

Trains each missing (agent, env, seed) by the ordinary command, `python -m rlkit agent=… env=… seed=…`, and evaluates
the final policy over 100 episodes, or 1000 where returns are noisy. Each finished run is at once a row of
results/learning/<agent>_<env>.csv, so that the command can be stopped and continued. --table turns the rows into
results/learning.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Task(NamedTuple):
    """An agent and an environment that are trained by default, and the reference for their return."""

    agent: str
    env: str
    seeds: int
    reference: str
    """RL Zoo's mean return for this agent (its benchmark.md, one seed each), or another known return of the task."""
    episodes: int = 100
    """Number of episodes of the final evaluation."""


SUITE = [
    Task("ppo", "CartPole-v1", 10, "500"),
    Task("ppo", "Acrobot-v1", 3, "-73.5"),
    Task("ppo", "MountainCarContinuous-v0", 3, "88.3"),
    Task("ppo", "Pendulum-v1", 3, "-172.2"),
    Task("ppo", "LunarLander-v3", 3, "242.1"),
    Task("a2c", "CartPole-v1", 3, "500"),
    Task("a2c", "Acrobot-v1", 3, "-83.4"),
    Task("a2c", "MountainCar-v0", 3, "-111.3"),
    Task("a2c", "LunarLander-v3", 3, "155.8"),
    Task("a3c", "CartPole-v1", 10, "500, of A2C"),
    Task("a3c", "Acrobot-v1", 3, "-83.4, of A2C"),
    Task("trpo", "CartPole-v1", 3, "500"),
    Task("trpo", "Acrobot-v1", 3, "-83.1"),
    Task("trpo", "MountainCar-v0", 3, "-107.3"),
    Task("trpo", "LunarLander-v3", 3, "133.2"),
    Task("dqn", "CartPole-v1", 3, "500"),
    Task("dqn", "Acrobot-v1", 3, "-76.6"),
    Task("dqn", "MountainCar-v0", 6, "-100.8"),
    Task("dqn", "LunarLander-v3", 3, "154.4"),
    Task("reinforce", "CartPole-v1", 10, "–"),
    Task("reinforce_baseline", "CartPole-v1", 10, "–"),
    Task("reinforce_baseline", "Acrobot-v1", 3, "–"),
    Task("reinforce_baseline", "LunarLander-v3", 3, "–"),
    Task("q_learning", "CliffWalking-v1", 3, "-13, the shortest path"),
    Task("sarsa", "CliffWalking-v1", 3, "-17, the safe path"),
    Task("q_learning", "FrozenLake-v1", 3, "0.74, the best policy", 1000),
    Task("sarsa", "FrozenLake-v1", 3, "0.74, the best policy", 1000),
    Task("q_learning", "Taxi-v4", 3, "7.9, the best policy", 1000),
    Task("sarsa", "Taxi-v4", 3, "7.9, the best policy", 1000),
]
COLUMNS = (
    "seed",
    "total_timesteps",
    "eval_return_mean",
    "eval_return_std",
    "eval_episodes",
    "wall_time_s",
    "steps_per_second",
    "compute",
    "device",
)


def main() -> None:
    """Trains all runs that are missing, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", help="only this agent")
    parser.add_argument("--env", help="only this environment")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, …: how many (default: 10 for CartPole-v1, else 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default 1)")
    parser.add_argument("--table", action="store_true", help="write the table instead of training")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("overrides", nargs="*", help="more arguments for rlkit, such as total_timesteps=1000")
    given = parser.parse_args()
    if given.table:
        text = table(given.results)
        (given.results / "learning.md").write_text(text)
        print(text)
        return
    tasks = [t for t in SUITE if given.agent in (None, t.agent) and given.env in (None, t.env)]
    if not tasks:
        parser.error(f"nothing to train: known are {', '.join(f'{t.agent} on {t.env}' for t in SUITE)}")
    runs = [(task, seed) for task in tasks for seed in range(given.seeds or task.seeds)]
    missing = [(task, seed) for task, seed in runs if seed not in finished_seeds(csv_file(given.results, task))]
    print(f"{len(missing)} of {len(runs)} runs to do")
    with ThreadPoolExecutor(given.jobs) as pool:
        done = list(pool.map(lambda run: train(run[0], run[1], given.overrides, given.results), missing))
    sys.exit(0 if all(done) else 1)


def train(task: Task, seed: int, overrides: list[str], results: Path) -> bool:
    """Trains once and writes the run into its CSV file; returns False if it failed."""
    arguments = [f"agent={task.agent}", f"env={task.env}", f"seed={seed}", f"final_eval_episodes={task.episodes}"]
    with tempfile.TemporaryDirectory() as folder:
        summary = run_rlkit([*arguments, *overrides], Path(folder) / "run")
    if summary:
        write_row(csv_file(results, task), summary)
    return summary is not None


def run_rlkit(arguments: list[str], run_dir: Path) -> dict[str, Any] | None:
    """Trains by the ordinary command and prints its result; returns summary.json, or None if it failed."""
    command = [sys.executable, "-m", "rlkit", *arguments, f"hydra.run.dir={run_dir}"]
    process = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        print(f"{' '.join(arguments)} failed: {process.stderr.strip()}", flush=True)
        return None
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    result = f"{summary['eval_return_mean']:.1f} in {summary['wall_time_s']:.0f} s"
    print(f"{' '.join(arguments)}: {result}", flush=True)
    return summary


LOCK = Lock()


def write_row(file: Path, row: dict[str, Any], columns: Sequence[str] = COLUMNS) -> None:
    """Appends a row's values of `columns` to a CSV file, after a header if the file is new."""
    with LOCK:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        with file.open("a", newline="") as rows:
            writer = csv.DictWriter(rows, columns, extrasaction="ignore", lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def csv_file(results: Path, task: Task) -> Path:
    """Returns the file with a task's rows; slashes and colons in the environment's id are replaced in its name."""
    return results / "learning" / f"{task.agent}_{re.sub(r'[/:]', '-', task.env)}.csv"


def read_rows(file: Path) -> list[dict[str, str]]:
    """Reads the rows of a file, sorted by seed."""
    if not file.exists():
        return []
    with file.open(newline="") as rows:
        return sorted(csv.DictReader(rows), key=lambda row: int(row["seed"]))


def finished_seeds(file: Path) -> set[int]:
    """Returns the seeds that have been trained already."""
    return {int(row["seed"]) for row in read_rows(file)}


def interval(returns: list[float]) -> tuple[float, float]:
    """Returns the bootstrap 95 % interval of the mean over seeds."""
    if len(returns) == 1:
        return returns[0], returns[0]
    result = stats.bootstrap((returns,), np.mean, confidence_level=0.95, method="percentile", rng=0)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def rounded(value: float) -> str:
    """Returns a return with one decimal, or with three if it is between -1 and 1, like FrozenLake's."""
    return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:.1f}"


def table(results: Path) -> str:
    """Returns the results of all runs so far as a table in Markdown."""
    lines = [
        "Return of the final policy over 100 episodes (FrozenLake and Taxi: 1000): mean over seeds, with a bootstrap",
        "95 % interval over seeds, and the lowest and highest seed. The reference is, where nothing else is said,",
        "RL Zoo's value for the same agent (its benchmark.md, one training run each).",
        "",
        "`python benchmarks/learning.py`, then `python benchmarks/learning.py --table`",
        "",
        "| agent | environment | timesteps | seeds | return [95 %] | lowest – highest | reference |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in SUITE:
        if rows := read_rows(csv_file(results, task)):
            returns = [float(row["eval_return_mean"]) for row in rows]
            low, high = interval(returns)
            steps = " / ".join(sorted({f"{int(row['total_timesteps']):,}" for row in rows}))
            lines.append(
                f"| {task.agent} | {task.env} | {steps} | {len(rows)} | {rounded(float(np.mean(returns)))} "
                f"[{rounded(low)}, {rounded(high)}] | {rounded(min(returns))} – {rounded(max(returns))} "
                f"| {task.reference} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
