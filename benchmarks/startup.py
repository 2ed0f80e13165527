"""CPU seconds of whole commands that do not train, such as `--help` and mistakes.

    python benchmarks/startup.py [--repetitions 5]

All commands run in turn on one core, and so do imports of PyTorch and of Stable-Baselines3, for comparison. Writes
results/startup.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from throughput import HERE, ONE_THREAD, machine

GOAL = 1.0
"""CPU seconds that each of rlkit's commands may take."""
COMMANDS = {
    "`rlkit --help`": ["-m", "rlkit", "--help"],
    "`rlkit agent=pppo`, a mistyped value": ["-m", "rlkit", "agent=pppo"],
    "`rlkit total_timestep=10`, a mistyped key": ["-m", "rlkit", "total_timestep=10"],
    "`import torch`": ["-c", "import torch"],
    "`import stable_baselines3`": ["-c", "import stable_baselines3"],
}


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="of each command (default 5)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repetition in range(given.repetitions + 1):
        for name, arguments in COMMANDS.items():
            seconds = cpu_seconds(arguments)
            if repetition:  # the first repetition is left out, because it reads files that are in memory later
                found[name].append(round(seconds, 3))
    report = {
        "command": f"python benchmarks/startup.py --repetitions {given.repetitions}",
        "machine": machine(),
        "cpu_seconds": found,
    }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "startup.json").write_text(json.dumps(report, indent=2) + "\n")
    text = table(found, f"`{report['command']}`, on one of {report['machine']}")
    (given.results / "startup.md").write_text(text)
    print(text)


def cpu_seconds(arguments: list[str]) -> float:
    """Runs Python with the arguments, ignoring its output, and returns the CPU seconds of the process."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2):  # 2 is the exit code of a user's mistake
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def table(found: dict[str, list[float]], about: str) -> str:
    """Returns the results as a table in Markdown."""
    lines = [f"{about}: CPU seconds, medians (lowest – highest); the goal for rlkit's is {GOAL:g}.", ""]
    lines += ["| | CPU seconds |", "|---|---|"]
    lines += [f"| {name} | {median(v):.2f} ({min(v):.2f} – {max(v):.2f}) |" for name, v in found.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
