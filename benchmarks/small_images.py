"""PPO on stacks of 10×10×4, as MinAtar's are, beside Stable-Baselines3 with the same network.

    python benchmarks/small_images.py [--repetitions 3] [--timesteps 24576]

rlkit takes MinAtar's network (`network.encoder=auto`), and SB3 gets it as a features extractor of its CnnPolicy. The
frames are random (random_frames.py) and there are no evaluations. The systems take turns, each run in a fresh process
with one thread; its whole training loop is measured, in CPU time. Then each system's gradient steps are measured alone.
rlkit with the network of earlier versions (`auto_v1`) shows what the smaller one saves. Writes
results/small_images.json and .md.
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
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from gpu import WORKS as GPU_WORKS
from throughput import ONE_THREAD, machine

HERE = Path(__file__).resolve().parent
GOAL = 1.5
"""Ratio to SB3's steps per CPU second that rlkit should reach."""
WORK = replace(
    GPU_WORKS["ppo"],
    title="PPO, 8 environments, rollouts of 1,024 images of 10×10×4, 4 epochs of minibatches of 256",
    env="random_frames:RandomSmallFrames-v0",
    timesteps=24_576,
    goal=GOAL,
)
SYSTEMS = ("rlkit", "sb3", "rlkit, auto_v1")


def main() -> None:
    """Runs the benchmark, or a single run of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each system (default 3)")
    parser.add_argument("--timesteps", type=int, default=WORK.timesteps, help="of each run (default 24,576)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        system, timesteps, seed = given.one
        print(json.dumps(one_run(system, int(timesteps), int(seed))))
        return
    runs: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for seed in range(given.repetitions):
        for system in SYSTEMS if seed % 2 == 0 else SYSTEMS[::-1]:
            runs[system].append(in_a_process(system, str(given.timesteps), str(seed)))
            print(system, runs[system][-1])
    report = {
        "command": f"python benchmarks/small_images.py --repetitions {given.repetitions} --timesteps {given.timesteps}",
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "sb3": version("stable-baselines3"),
        },
        "work": asdict(WORK),
        "runs": runs,
    }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "small_images.json").write_text(json.dumps(report, indent=2) + "\n")
    table = markdown(report)
    (given.results / "small_images.md").write_text(table)
    print(f"\n{table}")


def in_a_process(*arguments: str) -> dict[str, float]:
    """Makes one run in a process of its own."""
    command = [sys.executable, __file__, "--one", *arguments]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_run(system: str, timesteps: int, seed: int) -> dict[str, float]:
    """Measures the steps per CPU second of a training loop, and counts its gradient steps and its network's weights."""
    with tempfile.TemporaryDirectory() as folder:
        if system == "sb3":
            return train_sb3(timesteps, seed, Path(folder))
        return train_rlkit(timesteps, seed, Path(folder), *(["network.encoder=auto_v1"] if "," in system else []))


def train_rlkit(timesteps: int, seed: int, folder: Path, *more: str) -> dict[str, float]:
    """Trains by `python -m rlkit`."""
    from rlkit import trainer
    from rlkit.cli import main as cli
    from rlkit.engine.torch.actor_critic import TorchEngine

    train, step, found, spent = trainer.Trainer.train, TorchEngine.step, {}, [0.0]

    def timed_step(self: Any, *arguments: Any) -> Any:
        start = time.process_time()
        metrics = step(self, *arguments)
        spent[0] += time.process_time() - start
        return metrics

    def timed_train(self: trainer.Trainer) -> None:
        start = time.process_time()
        train(self)
        seconds, model, engine = time.process_time() - start, self.agent.model, self.agent.engine  # type: ignore[attr-defined]
        weights = sum(parameter.numel() for parameter in model.parameters())
        found.update(measures(self.timesteps, seconds, engine.state_dict()["steps"], spent[0], weights))

    arguments = [
        *WORK.rlkit_arguments(),
        *(f"total_timesteps={timesteps}", f"seed={seed}", "device=cpu", "vectorization=sync"),
        *("eval_interval=0", "eval_episodes=1", "final_eval_episodes=0", "checkpoint_interval=0"),
        *(f"hydra.run.dir={folder}/run", *more),
    ]
    with (
        mock.patch.object(TorchEngine, "step", timed_step),
        mock.patch.object(trainer.Trainer, "train", timed_train),
        mock.patch("sys.argv", ["rlkit", *arguments]),
    ):
        cli.main()
    return found


def train_sb3(timesteps: int, seed: int, folder: Path) -> dict[str, float]:
    """Trains SB3's PPO with MinAtar's network."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from torch import Tensor, nn

    class MinAtar(BaseFeaturesExtractor):
        """MinAtar's network (Young and Tian 2019)."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, 128)
            convolution = nn.Sequential(nn.Conv2d(space.shape[0], 16, 3), nn.ReLU(), nn.Flatten())
            self.net = nn.Sequential(convolution, nn.Linear(16 * 8 * 8, 128), nn.ReLU())

        def forward(self, images: Tensor) -> Tensor:
            features: Tensor = self.net(images)
            return features

    torch.set_num_threads(1)
    given = WORK.sb3_arguments()
    given["policy_kwargs"] |= {"features_extractor_class": MinAtar}
    model = PPO(
        "CnnPolicy", make_vec_env(WORK.env, WORK.num_envs, seed=seed), device="cpu", seed=seed, verbose=0, **given
    )
    model.set_logger(configure(str(folder), ["csv"]))
    spent, train = [0.0], model.train

    def timed_train() -> None:
        start = time.process_time()
        train()
        spent[0] += time.process_time() - start

    start = time.process_time()
    with mock.patch.object(model, "train", timed_train):
        model.learn(timesteps)
    seconds = time.process_time() - start
    model.logger.close()
    steps = int(model.policy.optimizer.state_dict()["state"][0]["step"])
    return measures(
        model.num_timesteps, seconds, steps, spent[0], sum(part.numel() for part in model.policy.parameters())
    )


def measures(timesteps: int, seconds: float, steps: int, spent: float, weights: int) -> dict[str, float]:
    """Returns a run's measures by name; `seconds` are those of all, and `spent` those of the gradient steps."""
    return {
        "steps_per_cpu_s": timesteps / seconds,
        "gradient_steps": steps,
        "gradient_step_ms": spent / steps * 1e3,
        "weights": weights,
    }


def markdown(report: dict[str, Any]) -> str:
    """Returns the measures as a table in Markdown, with the command and the machine."""
    versions, runs = report["versions"], report["runs"]
    theirs = {key: median(run[key] for run in runs["sb3"]) for key in runs["sb3"][0]}
    lines = [
        f"{report['work']['title']}: medians (lowest – highest).",
        "",
        f"`{report['command']}`, on one core of {report['machine']}; Python {versions['python']}, torch "
        f"{versions['torch']}, SB3 {versions['sb3']}. SB3's gradient steps are its `train`, which draws "
        "the minibatches too.",
        "",
        f"| | weights | gradient step, CPU ms | timesteps per CPU second | times SB3 (goal {GOAL}) |",
        "|---|---|---|---|---|",
    ]
    for system, found in runs.items():
        cells = []
        for key, digits in (("gradient_step_ms", 2), ("steps_per_cpu_s", 0)):
            values = [run[key] for run in found]
            cells.append(f"{median(values):,.{digits}f} ({min(values):,.{digits}f} – {max(values):,.{digits}f})")
        ratio = median(run["steps_per_cpu_s"] for run in found) / theirs["steps_per_cpu_s"]
        lines.append(f"| {system} | {found[0]['weights']:,} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
