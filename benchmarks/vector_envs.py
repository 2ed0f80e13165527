"""Steps per second of vector environments: in one process, in several, the environment's native one, and EnvPool's.

    python benchmarks/vector_envs.py [--seconds 2] [--envs CartPole-v1 …]

Each vector environment takes its turn with random actions that were drawn before. Wall time is measured, because
workers and threads spend CPU time outside of this process. EnvPool is measured if it is installed (`pip install
-e ".[envpool]"`). Writes results/vector_envs.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError

HERE = Path(__file__).resolve().parent
CASES = {
    "CartPole-v1": (8, 64, 1024),
    "Acrobot-v1": (8, 64),
    "LunarLander-v3": (8, 64),
    "ALE/Pong-v5": (8,),
}
WAYS = ("sync", "async", "native", "envpool")
MOST_PROCESSES = 8


def main() -> None:
    """Measures all vector environments, and prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--envs", nargs="*", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    packages = [name for name in ("gymnasium", "ale-py", "envpool") if find_spec(name.replace("-", "_"))]
    lines = [
        f"`python benchmarks/vector_envs.py`, on {len(os.sched_getaffinity(0))} cores; "
        + ", ".join(f"{name} {version(name)}" for name in packages),
        "",
        f"| steps per second | environments | {' | '.join(WAYS)} |",
        "|---|---|" + "---:|" * len(WAYS),
    ]
    for id in given.envs:
        for num_envs in CASES[id]:
            cells = [speed(id, num_envs, way, given.seconds) for way in WAYS]
            lines.append(f"| {id} | {num_envs:,} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "vector_envs.md").write_text("\n".join(lines) + "\n")


def speed(id: str, num_envs: int, way: str, seconds: float) -> str:
    """Measures environment steps per second; returns a dash if there is no such implementation."""
    if (way == "envpool" and not find_spec("envpool")) or (way == "async" and num_envs > MOST_PROCESSES):
        return "–"
    try:
        envs, _ = make_vector_env(EnvFactory(id), num_envs, way)
    except RlkitError:
        return "–"
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(16)]
    return f"{rate(lambda i: envs.step(actions[i % 16]), seconds) * num_envs:,.0f}"


def rate(step: Callable[[int], object], seconds: float) -> float:
    """Measures calls per second, without the first few."""
    for i in range(5):
        step(i)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step(count)
        count += 1
    return count / spent


if __name__ == "__main__":
    main()
