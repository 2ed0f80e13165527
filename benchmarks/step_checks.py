"""CPU time of the checks of every step: PPO on CartPole-v1 with 8 environments, with the checks and without, in turn.

    python benchmarks/step_checks.py [--repetitions 5] [--timesteps 100000]

All runs are in one process with one thread; without the checks, what they look at is cast as NumPy does it. The share
is that of whole runs with their evaluations; it is small beside what a busy machine adds, so look at the medians of
many repetitions. Beside it, the checks' own time is measured alone. Writes results/step_checks.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

import rlkit
from rlkit.spaces import leaves

RESULTS = Path(__file__).resolve().parent / "results" / "step_checks.json"


@contextmanager
def without_checks() -> Iterator[None]:
    """Casts what environments return, and looks at none of it."""

    def stacked(space: Any, observations: Sequence[Any]) -> Any:
        return np.array(observations, dtype=space.dtype)

    def fitted(space: Any, obs: Any, batch: tuple[int, ...] = ()) -> Any:
        return leaves(space, obs)

    with (
        mock.patch("rlkit.envs.vector.stacked", stacked),
        mock.patch("rlkit.envs.vector.checked_rewards", lambda rewards: np.array(rewards, dtype=np.float64)),
        mock.patch("rlkit.envs.vector.checked_flags", lambda name, flags: np.array(flags, dtype=np.bool_)),
        mock.patch("rlkit.collector.fitted", fitted),
        mock.patch("rlkit.collector.Collector._check_outcome", return_value=None),
        mock.patch("rlkit.envs.check.checked_step", lambda result: result),
    ):
        yield


def cpu_seconds(timesteps: int) -> float:
    """Trains once and returns the CPU seconds of this process."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        rlkit.train("ppo", "CartPole-v1", total_timesteps=timesteps, num_envs=8, run_dir=folder + "/run")
        return time.process_time() - start


def processor() -> str:
    """The processor's name, as the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    cpu_seconds(2_048)  # imports, and the first use of everything
    ways: dict[str, Callable[[], Any]] = {"with": mock.MagicMock, "without": without_checks}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repetition in range(given.repetitions):
        for way in list(ways)[:: 1 if repetition % 2 else -1]:
            with ways[way]():
                seconds[way].append(cpu_seconds(given.timesteps))
    shares = [a / b - 1 for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    report = {"processor": processor(), "timesteps": given.timesteps, "cpu_seconds": seconds, "shares": shares}
    report |= {"share": median(seconds["with"]) / median(seconds["without"]) - 1}
    given.results.write_text(json.dumps(report, indent=1) + "\n")
    print(f"the checks take {report['share']:.1%} of PPO's CPU time on {report['processor']}")


if __name__ == "__main__":
    main()
