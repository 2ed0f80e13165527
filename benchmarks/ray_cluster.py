"""A3C on Ray beside A3C in processes: three workers on three simulated nodes, or three that share memory.

    python benchmarks/ray_cluster.py [--seeds 2]

Starts a Ray cluster of three nodes with a CPU each, all on this machine and on loopback. Each missing (case, way, seed)
is run in turn by the ordinary command and added to results/ray_cluster.json at once, so that the command can be stopped
and continued. In the end, results/ray_cluster.md is written. A rate is summary.json's, of the whole training without
the start of the processes. The nodes share the cores of one machine without a network between them, so that the figures
show the cost of messages, but not the gain of more machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from throughput import ONE_THREAD, machine

HERE = Path(__file__).resolve().parent
NODES = 3


class Case(NamedTuple):
    """A row of the table, with the command's arguments and the number of episodes of its final evaluation."""

    title: str
    arguments: str
    episodes: int


CASES = {
    "tuned": Case("CartPole-v1, the tuned values (4 environments per worker)", "env=CartPole-v1", 100),
    "small": Case("CartPole-v1, 1 environment per worker", "env=CartPole-v1 num_envs=1 total_timesteps=20000", 0),
    "slow": Case(
        "a step of 1 ms, 1 environment per worker",
        "env=slow_env:SlowCartPole-v1 num_envs=1 total_timesteps=12000",
        0,
    ),
}
WAYS = {"processes": "", "ray": "distributed=ray"}


def main() -> None:
    """Makes all runs that are missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="runs of each case (default 2)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("overrides", nargs="*", help="more arguments for rlkit, such as total_timesteps=1000")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / "ray_cluster.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.exists() else []
    done = {(run["case"], run["way"], run["seed"]) for run in runs}
    missing = [
        (case, way, seed)
        for seed in range(given.seeds)
        for case in CASES
        for way in WAYS
        if (case, way, seed) not in done
    ]
    if missing:
        with cluster() as address:
            for case, way, seed in missing:
                runs.append(timed(case, way, seed, address, given.overrides))
                print(runs[-1], flush=True)
                file.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=2) + "\n")
    text = table(json.loads(file.read_text()))
    (given.results / "ray_cluster.md").write_text(text)
    print(text)


@contextmanager
def cluster() -> Iterator[str]:
    """Starts a cluster of three nodes with a CPU each and a head node without, and yields its address."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # the cluster listens on loopback only
    from ray.cluster_utils import Cluster

    os.makedirs("/tmp/ray", exist_ok=True)  # where the cluster writes its address
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        options = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, **options}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(NODES):
                made.add_node(wait=False, num_cpus=1, **options)
            made.wait_for_nodes()
            yield made.address
        finally:
            made.shutdown()


def timed(case: str, way: str, seed: int, address: str, overrides: list[str]) -> dict[str, Any]:
    """Makes one run; returns its speed, its final return, and the load of the machine before it."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rlkit", "agent=a3c", f"agent.num_workers={NODES}", f"seed={seed}"]
        command += [*CASES[case].arguments.split(), *WAYS[way].split()]
        command += ["eval_interval=0", f"final_eval_episodes={CASES[case].episodes}", f"hydra.run.dir={folder}/run"]
        if way == "ray":
            command.append(f"ray_address={address}")
        paths = {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
        process = subprocess.run(
            [*command, *overrides], env=os.environ | ONE_THREAD | paths, capture_output=True, text=True
        )
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{process.stderr}")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return {
        "case": case,
        "way": way,
        "seed": seed,
        "steps_per_second": summary["steps_per_second"],
        "eval_return_mean": summary["eval_return_mean"],
        "eval_episodes": summary["eval_episodes"],
        "total_timesteps": summary["total_timesteps"],
        "load_before": round(load, 1),
    }


def table(report: dict[str, Any]) -> str:
    """Returns the medians of speeds and the means of returns as a table in Markdown."""
    lines = [
        "# A3C on a Ray cluster of three simulated nodes",
        "",
        f"Written by `python benchmarks/ray_cluster.py` on {report['machine']}: three workers as processes that share",
        "memory, and as actors on three nodes of one CPU each, which are all on this machine. Medians (lowest –",
        "highest) of steps per second over seeds, and means of the final policies' returns.",
        "",
        "| | timesteps | seeds | steps/s, processes | steps/s, Ray | | return, processes | return, Ray |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        found = [[run for run in report["runs"] if (run["case"], run["way"]) == (name, way)] for way in WAYS]
        if not all(found):
            continue
        speeds = [[run["steps_per_second"] for run in runs] for runs in found]
        cells = [f"{median(s):,.0f} ({min(s):,.0f} – {max(s):,.0f})" for s in speeds]
        ratio = f"**{median(speeds[1]) / median(speeds[0]):.2f} ×**"
        returns = ["–", "–"]
        if case.episodes:
            returns = [f"{mean(run['eval_return_mean'] for run in runs):.1f}" for runs in found]
        size = [f"{found[1][0]['total_timesteps']:,}", str(len(found[1]))]
        lines.append(f"| {' | '.join([case.title, *size, *cells, ratio, *returns])} |")
    highest = max(run["load_before"] for run in report["runs"])
    lines += ["", f"Returns are over {CASES['tuned'].episodes} episodes of each seed."]
    return "\n".join([*lines, "", f"The machine's load average before a run was at most {highest}.", ""])


if __name__ == "__main__":
    main()
