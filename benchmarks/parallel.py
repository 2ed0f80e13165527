"""Speeds of the ways to use several processes, on three kinds of task: the table of docs/distributed.md.

    python benchmarks/parallel.py [--repetitions 3]

One algorithm (A2C's update with 8 environments of 5 steps in all, not tuned) runs in every way that rlkit has, on three
tasks: a small network with a fast environment, a small network with an environment that waits for a millisecond in
every step, and a large network. Each missing run is made in turn by the ordinary command, in fresh processes with one
thread each, and is added to results/parallel.json at once, so that the command can be stopped and continued. In the
end, results/parallel.md is written. A rate is summary.json's, of the whole training without evaluations and without the
start of the processes. Ray is left out if it is not installed, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from throughput import ONE_THREAD, machine

HERE = Path(__file__).resolve().parent
NUM_ENVS = 8
"""Environments of a run, over all its processes."""


class Task(NamedTuple):
    """A task, which is a column of the table."""

    title: str
    arguments: str
    timesteps: int
    """Length of the runs, which the slowest way makes in some ten seconds."""


TASKS = {
    "fast": Task("64-64 network, CartPole-v1", "env=CartPole-v1", 200_000),
    "slow": Task("64-64 network, 1 ms per step", "env=slow_env:SlowCartPole-v1", 16_000),
    "large": Task("1024-1024 network, CartPole-v1", "env=CartPole-v1 network.hidden_sizes=[1024,1024]", 8_000),
}
WAYS = {
    "one process, `vectorization=sync`": (1, f"agent=a2c num_envs={NUM_ENVS} vectorization=sync"),
    "one process, `vectorization=async`": (1, f"agent=a2c num_envs={NUM_ENVS} vectorization=async"),
    "`agent=a3c`, 2 workers": (1, f"agent=a3c agent.num_workers=2 num_envs={NUM_ENVS // 2}"),
    "`agent=a3c`, 8 workers": (1, f"agent=a3c agent.num_workers=8 num_envs={NUM_ENVS // 8}"),
    "`torchrun`, 2 processes": (2, f"agent=a2c num_envs={NUM_ENVS} vectorization=sync"),
    "`agent=a3c distributed=ray`, 2 workers": (
        1,
        f"agent=a3c distributed=ray agent.num_workers=2 num_envs={NUM_ENVS // 2}",
    ),
}


def main() -> None:
    """Makes all runs that are missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="of every run (default 3)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / "parallel.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.exists() else []
    done = {(run["task"], run["way"], run["repetition"]) for run in runs}
    for repetition in range(given.repetitions):
        for task in TASKS:
            for way in WAYS:
                if (task, way, repetition) not in done and ("ray" not in way or has_ray()):
                    runs.append({"task": task, "way": way, "repetition": repetition, **timed(task, way, repetition)})
                    print(runs[-1], flush=True)
                    file.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=2) + "\n")
    text = table(json.loads(file.read_text()))
    (given.results / "parallel.md").write_text(text)
    print(text)


def has_ray() -> bool:
    """True if Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def timed(task: str, way: str, seed: int) -> dict[str, Any]:
    """Measures the speed of one run; ends this program if it fails."""
    processes, arguments = WAYS[way]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, *(torchrun if processes > 1 else []), "-m", "rlkit", "~tuned"),
            *(*arguments.split(), *TASKS[task].arguments.split()),
            *(f"seed={seed}", f"total_timesteps={TASKS[task].timesteps}"),
            *("eval_interval=0", "final_eval_episodes=0"),
            f"hydra.run.dir={folder}/run",
        ]
        paths = {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
        process = subprocess.run(command, env=os.environ | ONE_THREAD | paths, capture_output=True, text=True)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{process.stderr}")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return {"steps_per_s": summary["steps_per_second"]}


def table(report: dict[str, Any]) -> str:
    """Returns medians and ranges as a table in Markdown, with each way's ratio to the first."""
    lines = [
        f"Steps per second of A2C's update with {NUM_ENVS} environments in all, medians (lowest – highest), and",
        f"multiples of the first row. Written by `python benchmarks/parallel.py` on {report['machine']}.",
        "",
        f"| | {' | '.join(task.title for task in TASKS.values())} |",
        "|---" * (len(TASKS) + 1) + "|",
    ]
    rates = {
        (task, way): [run["steps_per_s"] for run in report["runs"] if (run["task"], run["way"]) == (task, way)]
        for task in TASKS
        for way in WAYS
    }
    for way in WAYS:
        cells = [cell(rates[task, way], rates[task, next(iter(WAYS))]) for task in TASKS]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def cell(rates: list[float], base: list[float]) -> str:
    """Returns the cell for one way on one task: its median rate, with the ratio to the first way's, `base`."""
    if not rates or not base:
        return "not measured"
    return f"{median(rates):,.0f} ({min(rates):,.0f} – {max(rates):,.0f}), {median(rates) / median(base):.2f} ×"


if __name__ == "__main__":
    main()
