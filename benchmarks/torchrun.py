"""Gain of torchrun on one machine: a run by one process, and by two with half of the environments each.

    python benchmarks/torchrun.py [--cases a2c ppo slow large] [--seeds 3]

Each missing (case, processes, seed) is run in turn by the ordinary command, with one thread per process, and is added
to results/torchrun.json at once, so that the command can be stopped and continued. In the end, results/torchrun.md is
written. Speed is the median over the rows of metrics.csv, which is that of training without start-up and evaluations.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from throughput import ONE_THREAD, machine

HERE = Path(__file__).resolve().parent
PROCESSES = (1, 2)


class Case(NamedTuple):
    """A row of the table, with the command's arguments."""

    title: str
    arguments: str


CASES = {
    "a2c": Case("A2C, CartPole-v1, 8 environments", "agent=a2c env=CartPole-v1 num_envs=8 total_timesteps=100000"),
    "ppo": Case(
        "PPO, CartPole-v1, 32 environments, minibatches of 1024",
        "agent=ppo env=CartPole-v1 num_envs=32 agent.num_steps=32 agent.minibatch_size=1024 total_timesteps=200000",
    ),
    "slow": Case(
        "PPO, a step of 1 ms in this process, 8 environments",
        "agent=ppo env=slow_env:SlowCartPole-v1 num_envs=8 agent.num_steps=32 agent.minibatch_size=256 "
        "agent.learning_rate=1e-3 agent.gamma=0.98 agent.gae_lambda=0.8 vectorization=sync total_timesteps=20480",
    ),
    "large": Case(
        "PPO, CartPole-v1, two networks of 512-512, minibatches of 2048",
        "agent=ppo env=CartPole-v1 num_envs=32 agent.num_steps=128 agent.minibatch_size=2048 agent.num_epochs=10 "
        "network.hidden_sizes=[512,512] total_timesteps=40960",
    ),
}


def main() -> None:
    """Makes all runs that are missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="which to run (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each case (default 3)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("overrides", nargs="*", help="more arguments for rlkit, such as total_timesteps=1000")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / "torchrun.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.exists() else []
    done = {(run["case"], run["processes"], run["seed"]) for run in runs}
    for seed in range(given.seeds):
        for case in given.cases:
            for processes in PROCESSES:
                if (case, processes, seed) not in done:
                    runs.append(timed(case, processes, seed, given.overrides))
                    print(runs[-1], flush=True)
                    file.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=2) + "\n")
    text = table(json.loads(file.read_text()))
    (given.results / "torchrun.md").write_text(text)
    print(text)


def timed(case: str, processes: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Makes one run; returns its speed, its final return, and the load of the machine before it."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        command = [
            *(sys.executable, "-m", *(torchrun if processes > 1 else []), "rlkit", *CASES[case].arguments.split()),
            *(f"seed={seed}", "eval_interval=0", f"hydra.run.dir={folder}/run", *overrides),
        ]
        paths = {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
        process = subprocess.run(command, env=os.environ | ONE_THREAD | paths, capture_output=True, text=True)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{process.stderr}")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        with (Path(folder) / "run" / "metrics.csv").open(newline="") as rows:
            speeds = [float(row["time/steps_per_second"]) for row in csv.DictReader(rows)]
    return {
        "case": case,
        "processes": processes,
        "seed": seed,
        "steps_per_second": round(median(speeds), 1),
        "eval_return_mean": summary["eval_return_mean"],
        "total_timesteps": summary["total_timesteps"],
        "load_before": round(load, 1),
    }


def table(report: dict[str, Any]) -> str:
    """Returns the medians of speeds and the means of returns as a table in Markdown."""
    lines = [
        "# torchrun on one machine",
        "",
        f"Written by `python benchmarks/torchrun.py` on {report['machine']}: medians (lowest – highest) of steps per",
        "second over seeds, and means of the final policies' returns over 20 episodes. One thread per process.",
        "",
        "| | seeds | one process | two processes | speed-up | return, one | return, two |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        found = [[run for run in report["runs"] if (run["case"], run["processes"]) == (name, p)] for p in PROCESSES]
        if not all(found):
            continue
        speeds = [[run["steps_per_second"] for run in runs] for runs in found]
        cells = [f"{median(s):,.0f} ({min(s):,.0f} – {max(s):,.0f})" for s in speeds]
        returns = [f"{mean(run['eval_return_mean'] for run in runs):.1f}" for runs in found]
        ratio = f"**{median(speeds[1]) / median(speeds[0]):.2f} ×**"
        lines.append(f"| {' | '.join([case.title, str(len(found[1])), *cells, ratio, *returns])} |")
    highest = max(run["load_before"] for run in report["runs"])
    return "\n".join([*lines, "", f"The machine's load average before a run was at most {highest}.", ""])


if __name__ == "__main__":
    main()
