"""How fast rlkit trains, beside Stable-Baselines3.

    python benchmarks/throughput.py [--workload ppo_cartpole] [--repetitions 5] [--timesteps 100000]

Runs both in turn, each run in a fresh process with one thread, on the same hyperparameters (workloads.py) and with
the same features on: CSV log, evaluations, best and last checkpoints, a final evaluation. Prints medians and ranges,
and writes results/throughput_<workload>.json and .md. "Training" is the training loop, everything in it included;
"shell to trained" is the whole process, from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from timed_training import TRAIN
from workloads import WORKLOADS

import rlkit

HERE = Path(__file__).resolve().parent
SCRIPT = "benchmarks/throughput.py"
SYSTEMS = tuple(TRAIN)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

PACKAGES = ("stable-baselines3", "torch", "gymnasium", "numpy")


class Measure(NamedTuple):
    """What a row of the table shows: `better` is +1 where more is better, -1 where less is, 0 for no comparison."""

    title: str
    better: int
    digits: int


MEASURES = {
    "train_steps_per_s": Measure("training, steps per second", +1, 0),
    "train_steps_per_cpu_s": Measure("training, steps per CPU second", +1, 0),
    "process_wall_s": Measure("shell to trained, seconds", -1, 1),
    "process_cpu_s": Measure("shell to trained, CPU seconds", -1, 1),
    "gradient_steps": Measure("gradient steps", 0, 0),
    "eval_return": Measure("return at the end", 0, 0),
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="ppo_cartpole", help="default ppo_cartpole")
    parser.add_argument("--repetitions", type=int, default=5, help="runs of each system (default 5)")
    parser.add_argument("--timesteps", type=int, help="of each run (default: the workload's own)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    name, repetitions, workload = given.workload, given.repetitions, WORKLOADS[given.workload]
    timesteps = given.timesteps or workload.timesteps
    runs = []
    for repetition in range(repetitions):
        for system in SYSTEMS if repetition % 2 == 0 else SYSTEMS[::-1]:
            runs.append(timed_run(name, system, timesteps, seed=repetition))
            print({key: round(value, 1) if isinstance(value, float) else value for key, value in runs[-1].items()})
    report = {
        "command": f"python {SCRIPT} --workload {name} --repetitions {repetitions} --timesteps {timesteps}",
        "workload": asdict(workload),
        "machine": machine(),
        "versions": {
            "rlkit": rlkit.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "summary": summary(runs),
        "runs": runs,
    }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / f"throughput_{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    table = markdown(report)
    (given.results / f"throughput_{name}.md").write_text(table)
    print(f"\n{table}")


def timed_run(workload: str, system: str, timesteps: int, seed: int) -> dict[str, Any]:
    """One run in a fresh process: what timed_training.py measured inside, and the whole process from outside."""
    with tempfile.TemporaryDirectory() as run_dir:
        script = str(HERE / "timed_training.py")
        command = [sys.executable, script, workload, system, run_dir, str(timesteps), str(seed)]
        log = Path(run_dir) / "log.txt"
        start = time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{log.read_text()}")
        timing = json.loads((Path(run_dir) / "timing.json").read_text())
    return {
        "system": system,
        "seed": seed,
        "train_steps_per_s": timing["steps"] / timing["train_wall_s"],
        "train_steps_per_cpu_s": timing["steps"] / timing["train_cpu_s"],
        "process_wall_s": wall,
        "process_cpu_s": usage.ru_utime + usage.ru_stime,
        "gradient_steps": timing["gradient_steps"],
        "eval_return": timing["eval_return"],
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By measure: each system's median, lowest and highest, and how many times better rlkit's median is."""
    found: dict[str, Any] = {}
    for key, measure in MEASURES.items():
        values = {name: [run[key] for run in runs if run["system"] == name] for name in SYSTEMS}
        medians = {name: median(values[name]) for name in SYSTEMS}
        found[key] = {
            name: {"median": medians[name], "min": min(values[name]), "max": max(values[name])} for name in SYSTEMS
        }
        if measure.better:
            found[key]["ratio"] = (medians["rlkit"] / medians["sb3"]) ** measure.better
    return found


def markdown(report: dict[str, Any]) -> str:
    """The summary as a table, with the command and the machine."""
    repetitions, versions = len(report["runs"]) // len(SYSTEMS), report["versions"]
    lines = [
        f"{report['workload']['title']}: medians (lowest – highest) of {repetitions} runs of each system, in turn.",
        "",
        f"`{report['command']}`, on {report['machine']}; Python {versions['python']}, torch {versions['torch']}.",
        "",
        f"| | rlkit {versions['rlkit']} | SB3 {versions['stable-baselines3']} | rlkit is better by |",
        "|---|---|---|---|",
    ]
    for key, measure in MEASURES.items():
        row = report["summary"][key]
        cells = [
            f"{row[name]['median']:,.{measure.digits}f} "
            f"({row[name]['min']:,.{measure.digits}f} – {row[name]['max']:,.{measure.digits}f})"
            for name in SYSTEMS
        ]
        ratio = f"**{row['ratio']:.2f} ×**" if "ratio" in row else ""
        lines.append(f"| {measure.title} | {cells[0]} | {cells[1]} | {ratio} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The processor's name and the number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    name = names[0].partition(": ")[2] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}"


if __name__ == "__main__":
    main()
