"""CPU time of the checks of every step, as a share of PPO's on CartPole-v1 with 8 environments.

    python benchmarks/step_checks.py [--blocks 400] [--timesteps 100000]

Blocks of 100 vector steps are collected with the checks and without, in turn, in one process with one thread; without
them, what they look at is cast as NumPy does it. The difference of the medians is what the checks take of a vector
step, whatever else the machine does. It is divided by what a vector step takes in a whole run of PPO, with its updates
and evaluations. Writes results/step_checks.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

import rlkit
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector, Step
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.spaces import leaves
from rlkit.system.resources import processor

NUM_ENVS, BLOCK = 8, 100
RESULTS = Path(__file__).resolve().parent / "results" / "step_checks.json"


@contextmanager
def without_checks() -> Iterator[None]:
    """Casts what environments return, and looks at none of it."""

    def stacked(space: Any, observations: Sequence[Any]) -> Any:
        return np.array(observations, dtype=space.dtype)

    def fitted(space: Any, obs: Any, batch: tuple[int, ...] = ()) -> Any:
        return leaves(space, obs)

    def unchecked(collector: Collector, *outcome: Any) -> None:
        """Takes as long as any call does: a mock would take longer than the checks."""

    with (
        mock.patch("rlkit.envs.vector.stacked", stacked),
        mock.patch("rlkit.envs.vector.checked_rewards", lambda rewards: np.array(rewards, dtype=np.float64)),
        mock.patch("rlkit.envs.vector.checked_flags", lambda name, flags: np.array(flags, dtype=np.bool_)),
        mock.patch("rlkit.collector.fitted", fitted),
        mock.patch("rlkit.collector.Collector._check_outcome", unchecked),
        mock.patch("rlkit.envs.check.checked_step", lambda result: result),
    ):
        yield


class Fixed:
    """Acts without a network, so that little but the collector's own work is measured."""

    def __init__(self) -> None:
        self._action = np.arange(NUM_ENVS) % 2

    def act(self, obs: Any, *, action_mask: Any = None, explore: bool = True) -> Step:
        """Alternates between the two actions."""
        self._action = 1 - self._action
        return Step(self._action, self._action)


def collecting(blocks: int) -> dict[str, list[float]]:
    """Returns microseconds of CPU time per vector step, a number for each block, with the checks and without."""
    envs = make_vector_env(EnvFactory("CartPole-v1"), NUM_ENVS, "sync")[0]
    collector, buffer, agent = Collector(envs, list(range(NUM_ENVS))), RolloutBuffer(BLOCK, NUM_ENVS), Fixed()
    found: dict[str, list[float]] = {"with": [], "without": []}
    for block in range(2 * blocks):
        way = "without" if block % 2 else "with"
        with without_checks() if block % 2 else nullcontext():
            buffer.clear()
            start = time.process_time_ns()
            collector.collect(agent, buffer, BLOCK)
            found[way].append((time.process_time_ns() - start) / 1e3 / BLOCK)
    return found


def training(timesteps: int) -> float:
    """Returns microseconds of CPU time per vector step of a whole run of PPO, with its evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        rlkit.train("ppo", "CartPole-v1", total_timesteps=timesteps, num_envs=NUM_ENVS, run_dir=folder + "/run")
        return (time.process_time() - start) * 1e6 * NUM_ENVS / timesteps


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=400, help="of each kind (default 400)")
    parser.add_argument("--timesteps", type=int, default=100_000, help="of each of three runs (default 100000)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    training(2_048)  # imports, and the first use of everything
    collecting(10)
    blocks = {way: median(found) for way, found in collecting(given.blocks).items()}
    run = median(training(given.timesteps) for _ in range(3))
    report = {
        "processor": processor(),
        "microseconds_per_vector_step": {"collecting": blocks, "ppo": run},
        "share": (blocks["with"] - blocks["without"]) / run,
    }
    given.results.write_text(json.dumps(report, indent=1) + "\n")
    print(f"the checks take {report['share']:.1%} of PPO's CPU time on {report['processor']}")


if __name__ == "__main__":
    main()
