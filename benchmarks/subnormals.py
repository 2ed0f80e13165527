"""The cost of subnormal numbers: optimiser steps on units that are dead, beside steps on units that live.

    python benchmarks/subnormals.py [--steps 5000] [--size 65536]

A unit whose ReLU is off has gradients of zero, and its moments decay until they are subnormal. Each optimiser takes
`--steps` steps on parameters that have had one gradient and then none, and as many on parameters that have new
gradients, with subnormal numbers flushed to zero and without. The last fifth of the steps is timed, in CPU time, in one
process with one thread. Then DQN trains on CartPole-v1 with flushing and without, and the speed in each tenth of its
steps after learning has begun shows if it slows down. Writes results/subnormals.json and .md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import rlkit
from rlkit.engine.native import primitives as native
from rlkit.engine.native.optimizers import OPTIMIZERS
from rlkit.engine.torch.optimizer import TorchOptimizer
from rlkit.system.resources import processor
from rlkit.system.subnormals import flushed
from rlkit.trainer import Trainer

RESULTS = Path(__file__).resolve().parent / "results"
TENTHS = 10
Make = Callable[[torch.Tensor, torch.Tensor], Any]


def optimizers() -> dict[str, Make]:
    """Returns the optimisers by engine and name."""
    found: dict[str, Make] = {}
    for name in ("adam", "rmsprop"):
        if native.missing is None:
            kind = OPTIMIZERS[name]
            found[f"C, {name}"] = lambda p, g, kind=kind: kind(p.numpy(), g.numpy(), eps=1e-8)  # type: ignore[misc]
        found[f"torch, {name}"] = lambda p, g, name=name: TorchOptimizer(name, p, g, eps=1e-8)  # type: ignore[misc]
    return found


def microseconds(make: Make, steps: int, size: int, *, dead: bool) -> float:
    """Measures the CPU time of a step, as a mean over the last fifth of them."""
    generator = torch.Generator().manual_seed(0)
    parameters, gradients = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    fresh, none = gradients.clone(), torch.zeros(size)
    optimizer = make(parameters, gradients)
    start = 0
    for step in range(steps):
        if step == steps - steps // 5:
            start = time.process_time_ns()
        gradients.copy_(none if dead and step else fresh)
        optimizer.step(1e-6)
    return (time.process_time_ns() - start) / 1e3 / (steps // 5)


@contextmanager
def never_flushed() -> Iterator[None]:
    """Keeps everything as IEEE 754 says."""

    @contextmanager
    def unchanged(flush: bool = True) -> Iterator[None]:
        yield

    places = ("rlkit.collector", "rlkit.trainer", "rlkit.engine.threads")
    patches = [mock.patch(f"{place}.flushed", unchanged) for place in places]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def steps_per_second(timesteps: int) -> list[float]:
    """Trains DQN with tuned values and without evaluations; returns timesteps per second of CPU time, by tenths.

    They are tenths of the updates that learn.
    """
    quiet: dict[str, Any] = {"eval_interval": 0, "final_eval_episodes": 0, "checkpoint_interval": 0}
    advance, marks = Trainer.advance, []

    def timed_advance(trainer: Trainer) -> Any:
        advanced = advance(trainer)
        if trainer.timesteps >= trainer.agent.config.learning_starts:  # type: ignore[attr-defined]
            marks.append((trainer.timesteps, time.process_time()))
        return advanced

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Trainer, "advance", timed_advance):
        rlkit.train("dqn", "CartPole-v1", total_timesteps=timesteps, run_dir=f"{folder}/run", **quiet)
    edges = [marks[i * (len(marks) - 1) // TENTHS] for i in range(TENTHS + 1)]
    return [(steps - steps_before) / (now - then) for (steps_before, then), (steps, now) in pairwise(edges)]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of each optimiser (default 5000)")
    parser.add_argument("--size", type=int, default=65_536, help="number of parameters (default 65536)")
    parser.add_argument("--timesteps", type=int, default=50_000, help="of each run of DQN (default 50000)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of DQN with flushing and without (default 3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for name, make in optimizers().items():
        found[name] = {}
        for dead in (True, False):
            kind = "dead" if dead else "live"
            found[name][kind] = microseconds(make, given.steps, given.size, dead=dead)
            with flushed():
                found[name][f"{kind}, flushed"] = microseconds(make, given.steps, given.size, dead=dead)
        print(name, found[name])
    runs: dict[str, list[list[float]]] = {"flushed": [], "not flushed": []}
    for _ in range(given.repetitions):
        with never_flushed():
            runs["not flushed"].append(steps_per_second(given.timesteps))
        runs["flushed"].append(steps_per_second(given.timesteps))
    report = {"processor": processor(), "optimizers": found, "dqn_steps_per_cpu_second": runs}
    (given.results / "subnormals.json").write_text(json.dumps(report, indent=1) + "\n")
    (given.results / "subnormals.md").write_text(table := markdown(report))
    print(table)


def markdown(report: dict[str, Any]) -> str:
    """Returns the results as a table."""
    lines = [
        f"`python benchmarks/subnormals.py`, on {report['processor']}.",
        "",
        "| microseconds per optimiser step | dead : live | dead : live, flushed |",
        "|---|---|---|",
    ]
    for name, of in report["optimizers"].items():
        plain, fast = of["dead"] / of["live"], of["dead, flushed"] / of["live, flushed"]
        lines.append(
            f"| {name} | {of['dead']:.0f} : {of['live']:.0f} = {plain:.1f} | "
            f"{of['dead, flushed']:.0f} : {of['live, flushed']:.0f} = {fast:.2f} |"
        )
    lines += ["", "| DQN on CartPole-v1, steps per CPU second | all steps | first tenth | last tenth | ratio |"]
    lines.append("|---|---|---|---|---|")
    for way, runs in report["dqn_steps_per_cpu_second"].items():
        speeds = np.median(runs, axis=0)
        total, first, last = len(speeds) / (1 / speeds).sum(), speeds[0], speeds[-1]
        lines.append(
            f"| {way}, median of {len(runs)} | {total:,.0f} | {first:,.0f} | {last:,.0f} | {last / first:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
