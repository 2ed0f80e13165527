"""The C engine's vector instructions compared: the speed of matrix products, and of networks' passes.

    python benchmarks/simd.py [--repetitions 15]

All kinds of vector instructions that the processor has take turns in one process with one thread, and are given CPU
time. A product is the forward pass of one layer, called from Python as training does: rows x inputs x outputs. Passes
are the forward and backward pass of a network. Writes results/simd.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from rlkit.engine.native import primitives as native
from rlkit.system.resources import processor

RESULTS = Path(__file__).resolve().parent / "results"
SECONDS = 0.05
"""CPU time of one measurement."""
PRODUCTS = ((64, 256, 256), (256, 64, 64), (256, 256, 256), (1000, 64, 64))
NETWORKS = {
    "PPO's, 256 rows, 4-64-64-2, tanh": (256, [4, 64, 64, 2], "tanh", False),
    "with GELU": (256, [4, 64, 64, 2], "gelu", False),
    "with GELU and layer normalisation": (256, [4, 64, 64, 2], "gelu", True),
    "DQN's, 64 rows, 4-256-256-2, relu": (64, [4, 256, 256, 2], "relu", False),
}
"""Rows, sizes of the layers, activation, and whether the hidden layers are normalised."""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15, help="of each measurement (default 15)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    given = parser.parse_args()
    if native.missing or native.refused:
        sys.exit(native.missing or native.refused)
    from rlkit.engine.native import kernels

    report = {
        "command": f"python benchmarks/simd.py --repetitions {given.repetitions}",
        "processor": processor(),
        "simd": kernels.available_simd(),
        "gflops": {
            " × ".join(map(str, shape)): {
                name: [2e-3 * float(np.prod(shape)) / time for time in times]
                for name, times in measured(shape[0], list(shape[1:]), "identity", False, given.repetitions).items()
            }
            for shape in PRODUCTS
        },
        "microseconds": {
            title: measured(*network, given.repetitions, backward=True) for title, network in NETWORKS.items()
        },
    }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "simd.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (given.results / "simd.md").write_text(table := markdown(report))
    print(table)


def measured(
    rows: int, sizes: list[int], activation: str, layer_norm: bool, repetitions: int, *, backward: bool = False
) -> dict[str, list[float]]:
    """Measures CPU microseconds of a network's passes with each kind of instructions, in turn."""
    from rlkit.engine.native import kernels

    names = kernels.available_simd()
    calls = {name: passes(name, rows, sizes, activation, layer_norm, backward) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for call in calls.values():
        microseconds(call)  # to warm up
    for repetition in range(repetitions):
        for name in names if repetition % 2 == 0 else names[::-1]:
            found[name].append(microseconds(calls[name]))
    return found


def passes(
    name: str, rows: int, sizes: list[int], activation: str, layer_norm: bool, backward: bool
) -> Callable[[], None]:
    """Returns a function that computes the forward pass of a network with random weights, and the backward pass."""
    from rlkit.engine.native import kernels

    rng = np.random.default_rng(0)
    layers = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        shapes: list[tuple[int, ...]] = [(after, before), (after,)] * 2  # weights and biases, and their gradients
        if layer_norm and i < len(sizes) - 2:
            shapes += [(after,)] * 4
        layers.append(tuple(rng.standard_normal(shape, dtype=np.float32) / 8 for shape in shapes))
    x, outputs = (rng.standard_normal((rows, size), dtype=np.float32) for size in (sizes[0], sizes[-1]))
    kernels.use_simd(name)
    network = kernels.MLP(layers, activation)

    def compute() -> None:
        network.forward(x, outputs)
        if backward:
            network.backward(x, outputs)

    return compute


def microseconds(call: Callable[[], None]) -> float:
    """Measures the CPU time of one call, as a mean over all calls within SECONDS."""
    count, start = 0, time.process_time()
    while time.process_time() - start < SECONDS:
        for _ in range(10):
            call()
        count += 10
    return (time.process_time() - start) / count * 1e6


def markdown(report: dict[str, Any]) -> str:
    """Returns the results as tables: medians, and the range of all measurements."""
    names = report["simd"]
    ratio = f" {names[0]} : {names[-1]} |" if len(names) > 1 else ""
    lines = [f"`{report['command']}`, on {report['processor']}. CPU time; medians (lowest – highest)."]
    for key, title in (("gflops", "product, GFLOP/s"), ("microseconds", "passes, µs")):
        lines += ["", f"| {title} | {' | '.join(names)} |{ratio}", f"|---|{'---|' * (len(names) + bool(ratio))}"]
        for work, found in report[key].items():
            cells = [
                f"{median(found[name]):,.0f} ({min(found[name]):,.0f} – {max(found[name]):,.0f})" for name in names
            ]
            if ratio:
                faster = median(found[names[0]]) / median(found[names[-1]])
                cells.append(f"**{faster if key == 'gflops' else 1 / faster:.2f} ×**")
            lines.append(f"| {work} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
