"""RL Zoo's CartPole PPO as a script for Stable-Baselines3, run as it is and with the import changed.

Both learn from equal environments for as many steps, interleaved seed by seed, each in a process of its own with one
thread, and are evaluated by SB3's `evaluate_policy`. Writes benchmarks/results/sb3_script.md: final returns, and CPU
seconds of `learn`, whose ratio is the speed that the changed import brings.

    python benchmarks/sb3_script.py --seeds 3 --timesteps 100000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, median

from rlkit.system.resources import processor

SCRIPT = """
import json, time
from {module} import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
import torch

torch.set_num_threads(1)


def linear(start):
    return lambda left: start * left


env = make_vec_env("CartPole-v1", n_envs=8, seed={seed})
model = PPO(
    "MlpPolicy", env, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, ent_coef=0.0,
    learning_rate=linear(0.001), clip_range=linear(0.2), seed={seed}, device="cpu",
)
started = time.process_time()
model.learn({timesteps})
seconds = time.process_time() - started
returns, _ = evaluate_policy(model, make_vec_env("CartPole-v1", seed=1000), n_eval_episodes=20)
print(json.dumps([float(returns), seconds]))
"""
MODULES = {"Stable-Baselines3": "stable_baselines3", "the import changed": "rlkit.sb3"}
RESULT = Path(__file__).parent / "results" / "sb3_script.md"


def main() -> None:
    """Runs the script by both imports and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timesteps", type=int, default=100_000)
    arguments = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in MODULES}
    for seed in range(arguments.seeds):
        for name, module in MODULES.items():
            results[name].append(run(module, seed, arguments.timesteps))
            print(name, seed, results[name][-1], flush=True)
    theirs, ours = results.values()
    ratio = median(their[1] / our[1] for their, our in zip(theirs, ours, strict=True))
    lines = [
        "# RL Zoo's CartPole PPO, with one import changed",
        "",
        f"`python benchmarks/sb3_script.py --seeds {arguments.seeds} --timesteps {arguments.timesteps}`",
        f"on {processor(model=True)}.",
        "",
        "| | return of each seed | mean | CPU seconds of `learn`, median |",
        "|---|---|---|---|",
        *(
            f"| {name} | {', '.join(f'{each[0]:.0f}' for each in runs)} | {mean(each[0] for each in runs):.1f} | "
            f"{median(each[1] for each in runs):.1f} |"
            for name, runs in results.items()
        ),
        "",
        f"Median ratio of CPU seconds: {ratio:.1f}. Environments are SB3's on both sides.",
    ]
    RESULT.write_text("\n".join(lines) + "\n")


def run(module: str, seed: int, timesteps: int) -> tuple[float, float]:
    """Runs the script in a process of its own; returns the final return and the CPU seconds of learning."""
    script = SCRIPT.format(module=module, seed=seed, timesteps=timesteps)
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env={**os.environ, **one}, check=True, capture_output=True
    )
    found, seconds = json.loads(done.stdout.splitlines()[-1])
    return float(found), float(seconds)


if __name__ == "__main__":
    main()
