"""CPU seconds of training on images while other programs keep all cores busy, beside those on idle cores.

    python benchmarks/busy.py [--repetitions 3]

Agents learn from random frames (random_frames.py), and the companion module's `fit` trains LeNet on random images. Each
run has a process of its own, once with a program on every core that computes without end and once without it, in turn:
first as rlkit computes by itself, with one thread of torch's and shards on all cores, then with a thread of torch's for
each core, as OMP_NUM_THREADS asks for; that, which takes minutes on busy cores, only once. What is compared is the
training loop's CPU time; its wall time is given too. Whatever else runs on the machine keeps its cores busy as well.
Writes results/busy.json and .md.
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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from throughput import machine

HERE = Path(__file__).resolve().parent
GOAL = 1.3
"""Ratio of CPU seconds on busy cores to those on idle ones that should not be exceeded."""
WORKS: dict[str, dict[str, Any]] = {
    "PPO on 84×84×4, minibatches of 256": {
        "agent": "ppo",
        "env": "random_frames:RandomFrames-v0",
        "total_timesteps": 2048,
        "num_envs": 8,
        "agent.minibatch_size": 256,
        "agent.num_epochs": 2,
    },
    "DQN on 84×84×4, minibatches of 32": {
        "agent": "dqn",
        "env": "random_frames:RandomFrames-v0",
        "total_timesteps": 768,
        "agent.learning_starts": 256,
        "agent.minibatch_size": 32,
        "agent.num_steps": 4,
        "agent.gradient_steps": 1,
        "agent.replay.size": 1000,
    },
    "PPO on 10×10×4, minibatches of 256": {
        "agent": "ppo",
        "env": "random_frames:RandomSmallFrames-v0",
        "total_timesteps": 8192,
        "num_envs": 8,
        "agent.minibatch_size": 256,
        "agent.num_epochs": 4,
    },
}
FIT = "fit, LeNet on 28×28, batches of 128"
QUIET = {
    "tuned": False,
    "vectorization": "sync",
    "eval_interval": 0,
    "eval_episodes": 1,
    "final_eval_episodes": 0,
    "checkpoint_interval": 0,
}
THREADS = {"rlkit": False, "a thread of torch's for each core": True}


def main() -> None:
    """Runs the benchmark, or a single run of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(fit_once() if given.one == FIT else train_once(given.one)))
        return
    runs: list[dict[str, Any]] = []
    for repetition in range(given.repetitions):
        for work in (*WORKS, FIT):
            for threads, torchs in list(THREADS.items())[: None if repetition == 0 else 1]:
                for busy in (False, True):
                    run = {"work": work, "threads": threads, "busy": busy, **in_a_process(work, torchs, busy)}
                    print(run, flush=True)
                    runs.append(run)
    report = {
        "command": f"python benchmarks/busy.py --repetitions {given.repetitions}",
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "runs": runs,
    }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "busy.json").write_text(json.dumps(report, indent=2) + "\n")
    table = markdown(report)
    (given.results / "busy.md").write_text(table)
    print(f"\n{table}")


@contextmanager
def load(cores: int) -> Iterator[None]:
    """Keeps that many cores busy."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def in_a_process(work: str, torchs: bool, busy: bool) -> dict[str, float]:
    """Makes one run in a process of its own."""
    cores = len(os.sched_getaffinity(0))
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    env |= {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if torchs:
        env |= {"OMP_NUM_THREADS": str(cores)}
    with load(cores if busy else 0):
        command = [sys.executable, __file__, "--one", work]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def train_once(work: str) -> dict[str, float]:
    """Measures a training loop of an agent."""
    import rlkit
    from rlkit import trainer

    train = trainer.Trainer.train
    found: dict[str, float] = {}

    def timed_train(self: trainer.Trainer) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        train(self)
        found.update(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(trainer.Trainer, "train", timed_train):
        settings: dict[str, Any] = {**QUIET, **WORKS[work]}
        rlkit.train(run_dir=f"{folder}/run", **settings)
    return found


def fit_once() -> dict[str, float]:
    """Measures `fit` for one epoch of 100 steps."""
    import torch

    from rlkit.perception import fit
    from rlkit.perception.config import FitConfig
    from rlkit.perception.data import Data, TensorSamples
    from rlkit.perception.models import make_model
    from rlkit.perception.tasks import Classification

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12_800, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (12_800,), generator=generator)
    samples, few = TensorSamples(images, labels), TensorSamples(images[:128], labels[:128])
    data = Data(samples, None, few, input_shape=(1, 28, 28), num_outputs=10)
    config = FitConfig(epochs=1, batch_size=128, checkpoint_interval=0)
    wall, cpu = time.perf_counter(), time.process_time()
    fit(Classification(make_model("lenet")), data, config)
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def markdown(report: dict[str, Any]) -> str:
    """Returns the medians as a table in Markdown, with the command and the machine."""
    versions = report["versions"]
    lines = [
        "CPU seconds of a training loop, and in brackets its wall time: medians, on idle cores and on cores that other "
        "programs keep busy. On a machine that others use, idle cores are not quite.",
        "",
        f"`{report['command']}`, on {report['machine']}; Python {versions['python']}, torch {versions['torch']}.",
        "",
        f"| work | threads | idle | busy | busy beside idle (goal: at most {GOAL}) |",
        "|---|---|---|---|---|",
    ]
    for work in dict.fromkeys(run["work"] for run in report["runs"]):
        for threads in THREADS:
            medians = {
                (busy, key): median(
                    run[key]
                    for run in report["runs"]
                    if (run["work"], run["threads"], run["busy"]) == (work, threads, busy)
                )
                for busy in (False, True)
                for key in ("cpu_s", "wall_s")
            }
            cells = [f"{medians[busy, 'cpu_s']:.2f} ({medians[busy, 'wall_s']:.2f})" for busy in (False, True)]
            ratio = medians[True, "cpu_s"] / medians[False, "cpu_s"]
            lines.append(f"| {work} | {threads} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
