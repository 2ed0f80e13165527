"""Where collecting and learning at the same time pays: DQN's steps per second with and without `overlap=true`.

    python benchmarks/overlap.py [--repetitions 3] [--scale 1]

Whole runs by turns in fresh processes, on all cores that there are, by the clock. The first two environments wait a
millisecond in each step (slow_env.py), as one that computes elsewhere; the others compute in Python. Writes
results/overlap.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from unittest import mock

from timed_training import Clock

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
COMMON = ["agent.learning_starts=512", "network.activation=relu", "agent.buffer_size=20_000", "vectorization=sync"]
EVERY_4 = ["num_envs=1", "agent.num_steps=4", "agent.gradient_steps=4"]
CASES = {
    "waits 1 ms; 64 rows, 256-256": (
        2048,
        ["env=slow_env:SlowCartPole-v1", *EVERY_4, "agent.minibatch_size=64", "network.hidden_sizes=[256,256]"],
    ),
    "waits 1 ms; 128 rows, 512-512": (
        1536,
        ["env=slow_env:SlowCartPole-v1", *EVERY_4, "agent.minibatch_size=128", "network.hidden_sizes=[512,512]"],
    ),
    "LunarLander; 128 rows, 256-256": (
        4096,
        ["env=LunarLander-v3", *EVERY_4, "agent.minibatch_size=128", "network.hidden_sizes=[256,256]"],
    ),
    "CartPole; 128 steps after 256": (
        12_800,
        [
            *("env=CartPole-v1", "num_envs=1", "agent.num_steps=256", "agent.gradient_steps=128"),
            *("agent.minibatch_size=64", "network.hidden_sizes=[256,256]"),
        ],
    ),
    "84×84×4 frames; 32 rows": (1024, ["env=random_frames:RandomFrames-v0", "num_envs=8", "agent.minibatch_size=32"]),
}


def main() -> None:
    """Measures, prints and writes the table; or does one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="of each run (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiple of each run's timesteps (default 1)")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, overlap, scale = given.one
        print(steps_per_second(name, overlap, float(scale)))
        return
    lines = [
        f"`python benchmarks/overlap.py --repetitions {given.repetitions} --scale {given.scale:g}`, "
        f"{len(os.sched_getaffinity(0))} cores: steps per second, medians (lowest – highest).",
        "",
        "| DQN | one after the other | `overlap=true` | |",
        "|---|---|---|---|",
    ]
    for name in given.cases:
        found: dict[str, list[float]] = {"false": [], "true": []}
        for repetition in range(given.repetitions):
            for overlap in ("false", "true") if repetition % 2 == 0 else ("true", "false"):
                found[overlap].append(in_a_process(name, overlap, given.scale))
        cells = [f"{median(runs):,.0f} ({min(runs):,.0f} – {max(runs):,.0f})" for runs in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {median(found['true']) / median(found['false']):.2f} × |")
        print(lines[-1], flush=True)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "overlap.md").write_text("\n".join(lines) + "\n")


def in_a_process(name: str, overlap: str, scale: float) -> float:
    """One run's steps per second."""
    command = [sys.executable, __file__, "--one", name, overlap, str(scale)]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def steps_per_second(name: str, overlap: str, scale: float) -> float:
    """Of `python -m rlkit`, by a clock around its training loop."""
    import torch

    from rlkit import cli, trainer
    from rlkit import overlap as overlapping

    torch.set_num_threads(1)
    clock, trained = Clock(), []
    timesteps, fields = CASES[name]
    kind: type[trainer.Trainer] = overlapping.OverlappingTrainer if overlap == "true" else trainer.Trainer
    train = kind.train

    def timed_train(self: trainer.Trainer) -> None:
        with clock.running():
            train(self)
        trained.append(self.timesteps)

    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *(
                "agent=dqn",
                "~tuned",
                *COMMON,
                *fields,
                f"overlap={overlap}",
                f"total_timesteps={int(timesteps * scale)}",
            ),
            *("eval_interval=0", "eval_episodes=1", "final_eval_episodes=0", "checkpoint_interval=0"),
            f"hydra.run.dir={folder}/run",
        ]
        with mock.patch.object(kind, "train", timed_train), mock.patch("sys.argv", ["rlkit", *arguments]):
            cli.main()
    return trained[0] / clock.wall_s


if __name__ == "__main__":
    main()
