"""A3C's steps per second by the number of workers, beside Stable-Baselines3's A2C, and the updates lost without a lock.

    python benchmarks/a3c.py [--repetitions 3] [--seconds 8]

The environments are CartPole-v1 as it is, and with a step that takes a millisecond longer (`benchmarks/slow_env.py`),
each with 1, 2, 4 and 8 workers. SB3's A2C has 8 environments. The share of lost updates is measured with processes that
do nothing but update. Every run is a fresh process with one thread per worker; repetitions are interleaved. A run's
rate is summary.json's, from the common start of its workers to their end. Writes results/a3c.json after each run, so
that the command can be stopped and continued, and in the end results/a3c.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from throughput import HERE, ONE_THREAD, machine

WORKERS = (1, 2, 4, 8)
ENVS = {"CartPole-v1": "CartPole-v1", "CartPole-v1, 1 ms per step": "slow_env:SlowCartPole-v1"}
RATE = {"CartPole-v1": 15_000, "CartPole-v1, 1 ms per step": 900}
"""Rough steps per second of one worker, by which the lengths of runs are chosen so that all take about as long."""
ENVS_PER_WORKER = (1, 4)
PUSHES = 50_000
"""Updates of each process in the measurement of lost updates."""
SIZE = 9_155
"""Number of parameters of two networks with layers of 64 and 64 units for CartPole."""


def main() -> None:
    """Runs all measurements that are missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="of every run (default 3)")
    parser.add_argument("--seconds", type=float, default=8, help="that a run takes, about (default 8)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    file = given.results / "a3c.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"machine": machine(), "runs": []}
    report["command"] = f"python benchmarks/a3c.py --repetitions {given.repetitions} --seconds {given.seconds:g}"
    done = {(run["what"], run["repetition"]) for run in report["runs"]}
    given.results.mkdir(parents=True, exist_ok=True)
    for repetition in range(given.repetitions):
        for what, measure in jobs(given.seconds).items():
            if (what, repetition) not in done:
                report["runs"].append({"what": what, "repetition": repetition, **measure()})
                print(report["runs"][-1], flush=True)
                file.write_text(json.dumps(report, indent=2) + "\n")
    (given.results / "a3c.md").write_text(markdown(report))
    print(markdown(report))


def jobs(seconds: float) -> dict[str, Any]:
    """Returns the measurements by name."""
    found: dict[str, Any] = {}
    for env in ENVS:
        for num_envs in ENVS_PER_WORKER if env == "CartPole-v1" else (1,):
            for workers in WORKERS:
                name = f"{env}, {num_envs} per worker, {workers} workers"
                found[name] = lambda env=env, num_envs=num_envs, workers=workers: a3c(env, num_envs, workers, seconds)
    found["SB3"] = lambda: sb3(int(seconds * 4_000))
    found["Hogwild"] = hogwild
    return found


def a3c(env: str, num_envs: int, workers: int, seconds: float) -> dict[str, Any]:
    """Measures the steps per second of a run by the command line, including its CSV log and evaluations."""
    parallel = workers if env != "CartPole-v1" else min(workers, os.cpu_count() or 1)
    timesteps = int(seconds * RATE[env] * parallel * (0.4 if num_envs == 1 and env == "CartPole-v1" else 1))
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "rlkit", "agent=a3c", f"env={ENVS[env]}", "~tuned", f"agent.num_workers={workers}"]
        command += [f"num_envs={num_envs}", f"total_timesteps={timesteps}", "eval_interval=0", "final_eval_episodes=0"]
        python(*command, f"hydra.run.dir={folder}/run")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return {"steps_per_s": summary["steps_per_second"]}


def sb3(timesteps: int) -> dict[str, Any]:
    """Measures the steps per second of SB3's A2C with 8 environments, its defaults, and a CSV log."""
    code = f"""
import tempfile, time, torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
torch.set_num_threads(1)
model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 8), device="cpu", seed=0)
model.set_logger(configure(tempfile.mkdtemp(), ["csv"]))
model.learn({timesteps} // 5)
start = time.perf_counter()
model.learn({timesteps})
print(model.num_timesteps / (time.perf_counter() - start))
"""
    return {"steps_per_s": float(python("-c", code).split()[-1])}


def hogwild() -> dict[str, Any]:
    """Measures the share of updates that is lost when two processes do nothing but update one set of parameters."""
    import numpy as np

    from rlkit.system.processes import SPAWN, SharedArray, run_child

    parameters = SharedArray([SIZE], "float32")
    pipes, processes = [], []
    for _ in range(2):
        ours, theirs = SPAWN.Pipe()
        processes.append(SPAWN.Process(target=run_child, args=("a3c:push", parameters, theirs)))
        processes[-1].start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("begin")
    for process in processes:
        process.join()
    return {"lost": 1 - float(np.mean(parameters.array)) / (2 * PUSHES)}


def push(parameters: Any, pipe: Any) -> None:
    """Adds a buffer of ones to the shared parameters PUSHES times, in place, as an optimiser adds its steps."""
    import numpy as np

    shared, buffer = parameters.array, np.ones(SIZE, np.float32)
    pipe.send("ready")
    pipe.recv()
    for _ in range(PUSHES):
        shared += buffer


def python(*arguments: str) -> str:
    """Runs Python and returns its output; ends this program if it fails."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env={**os.environ, **ONE_THREAD, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def markdown(report: dict[str, Any]) -> str:
    """Returns the medians as a table in Markdown."""
    values: dict[str, list[float]] = {}
    for run in report["runs"]:
        values.setdefault(run["what"], []).append(run.get("steps_per_s", run.get("lost")))
    medians = {what: median(found) for what, found in values.items()}
    lines = [
        f"A3C's steps per second, medians of {max(map(len, values.values()))} runs; "
        f"`{report['command']}`, on {report['machine']}, {time.strftime('%Y-%m-%d')}.",
        "",
        "| environment | per worker | "
        + " | ".join(f"{workers} workers" for workers in WORKERS)
        + " | 2 to 1 | 8 to 1 |",
        "|---" * (len(WORKERS) + 4) + "|",
    ]
    for env in ENVS:
        for num_envs in ENVS_PER_WORKER:
            names = [f"{env}, {num_envs} per worker, {workers} workers" for workers in WORKERS]
            if all(name in medians for name in names):
                rates = [medians[name] for name in names]
                cells = " | ".join(f"{rate:,.0f}" for rate in rates)
                lines.append(
                    f"| {env} | {num_envs} | {cells} | {rates[1] / rates[0]:.2f} × | {rates[-1] / rates[0]:.2f} × |"
                )
    if "SB3" in medians:
        ratios = [
            f"{medians[name] / medians['SB3']:.1f} × with {num_envs} per worker"
            for num_envs in ENVS_PER_WORKER
            if (name := f"CartPole-v1, {num_envs} per worker, 2 workers") in medians
        ]
        lines += ["", f"SB3's A2C, 8 environments: {medians['SB3']:,.0f}. Two workers: {', '.join(ratios)}."]
    if "Hogwild" in medians:
        lines += ["", f"Updates lost by two processes that do nothing else: {medians['Hogwild']:.2%}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
