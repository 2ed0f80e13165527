"""PPO and DQN with a CNN on 84×84×4 frames, beside Stable-Baselines3, on a GPU or without one.

    python benchmarks/gpu.py [--device auto] [--repetitions 3] [--timesteps 65536] [--only steps runs]

For `runs`, the systems take turns, each run in a fresh process with one torch thread. All have equal hyperparameters on
random frames (random_frames.py), and no evaluations, since there is nothing to learn. The whole training loop is
measured: on a GPU by the clock, on a CPU in CPU seconds, as other work may run beside it. For `steps`, single gradient
steps and actions of rlkit's engines are measured. On a GPU, a script in the style of LeanRL (lean_ppo.py) runs PPO as
well. What is compiled or recorded in the first half of a run is not timed: the clock runs in the second. Writes
results/gpu_<device>.json and .md.
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
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from workloads import Workload

from rlkit.system.resources import processor

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
GOAL = 6
"""Ratio to SB3's steps per second that rlkit should reach on a GPU."""
SETTINGS = {
    "float32": ["compute=torch", "network.amp=off"],
    "bfloat16": ["compute=torch", "network.amp=bfloat16"],
    "cudagraph, float32": ["compute=cudagraph", "network.amp=off"],
    "cudagraph, bfloat16": ["compute=cudagraph", "network.amp=bfloat16"],
    "compile, float32": ["compute=compile", "network.amp=off"],
    "compile, bfloat16": ["compute=compile", "network.amp=bfloat16"],
}
"""Settings that rlkit is measured with. On a CPU, those that compile are left out unless asked for, because compiling
takes longer than a run there."""
WORKS = {
    "ppo": Workload(
        "PPO, 8 environments, rollouts of 1,024 frames, 4 epochs of minibatches of 256",
        agent="ppo",
        env="random_frames:RandomFrames-v0",
        timesteps=32_768,
        num_envs=8,
        hyperparameters={
            "num_steps": 128,
            "minibatch_size": 256,
            "num_epochs": 4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "learning_rate": 2.5e-4,
            "learning_rate_schedule": "linear",
            "clip_coef": 0.1,
            "clip_coef_schedule": "linear",
            "ent_coef": 0.01,
        },
        hidden_sizes=(),
        activation="relu",
        goal=GOAL,
    ),
    "dqn": Workload(
        "DQN, a gradient step on 32 frames after every 4 steps",
        agent="dqn",
        env="random_frames:RandomFrames-v0",
        timesteps=8192,
        num_envs=1,
        hyperparameters={
            "learning_rate": 1e-4,
            "learning_rate_schedule": "constant",
            "gamma": 0.99,
            "replay.size": 10_000,
            "learning_starts": 256,
            "minibatch_size": 32,
            "epsilon.fraction": 0.1,
            "epsilon.end": 0.01,
            "num_steps": 4,
            "gradient_steps": 1,
            "target.interval": 250,
        },
        hidden_sizes=(),
        activation="relu",
        goal=GOAL,
    ),
}


def main() -> None:
    """Runs the benchmark, or a single measurement of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is")
    parser.add_argument("--repetitions", type=int, default=3, help="of each measurement (default 3)")
    parser.add_argument("--timesteps", type=int, help="of each run (default: the work's own)")
    parser.add_argument("--only", nargs="*", choices=("steps", "runs"), default=["steps", "runs"])
    parser.add_argument("--works", nargs="*", choices=WORKS, default=list(WORKS), help="default: both")
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, help="of rlkit (default: all; on a CPU, two)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, *arguments = given.one
        print(json.dumps(one_run(*arguments) if kind == "run" else one_setting(*arguments)))
        return
    import torch

    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    on_gpus_only = {"compile", "cudagraph"}
    usual = [name for name in SETTINGS if device == "cuda" or not on_gpus_only & set(name.split(", "))]
    settings = given.settings or usual
    report: dict[str, Any] = {
        "command": f"python benchmarks/gpu.py --device {device} --repetitions {given.repetitions}",
        "device": device,
        "machine": torch.cuda.get_device_name() if device == "cuda" else f"one core of {processor()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "sb3": version("stable-baselines3"),
        },
        "works": {name: asdict(WORKS[name]) for name in given.works},
        "steps": {},
        "runs": {},
    }
    if "steps" in given.only:
        report["steps"] = {name: in_a_process("steps", name, device) for name in settings}
        print(report["steps"])
    if "runs" in given.only:
        lean = {"ppo": ["lean"]} if device == "cuda" else {}
        systems = {work: [*settings, "sb3", *lean.get(work, [])] for work in given.works}
        report["runs"] = {work: {system: [] for system in systems[work]} for work in given.works}
        for seed in range(given.repetitions):
            for work in given.works:
                timesteps = str(given.timesteps or WORKS[work].timesteps)
                for system in systems[work] if seed % 2 == 0 else systems[work][::-1]:
                    run = in_a_process("run", work, system, device, timesteps, str(seed))
                    print(work, system, run)
                    report["runs"][work][system].append(run)
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / f"gpu_{device}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    table = markdown(report)
    file.with_suffix(".md").write_text(table)
    print(f"\n{table}")


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Makes one measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", *arguments]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_run(work: str, system: str, device: str, timesteps: str, seed: str) -> dict[str, float]:
    """Measures the steps per second of a training run's second half, and counts its gradient steps."""
    from random_frames import RandomFrames

    workload, total = WORKS[work], int(timesteps)
    RandomFrames.timed_from = total // 2
    with tempfile.TemporaryDirectory() as folder:
        if system == "sb3":
            steps, gradient_steps = train_sb3(workload, device, total, int(seed), Path(folder))
        elif system == "lean":
            import lean_ppo

            steps, gradient_steps = lean_ppo.train(workload, total, int(seed))
        else:
            steps, gradient_steps = train_rlkit(workload, system, device, total, int(seed), Path(folder))
        synchronize(device)
        ended = time.perf_counter(), time.process_time()
    wall_s, cpu_s = (end - start for end, start in zip(ended, RandomFrames.started, strict=True))
    seconds = wall_s if device == "cuda" else cpu_s
    timed = steps - RandomFrames.timed_from
    return {"steps_per_s": timed / seconds, "wall_s": wall_s, "steps": steps, "gradient_steps": gradient_steps}


def train_rlkit(
    workload: Workload, setting: str, device: str, timesteps: int, seed: int, folder: Path
) -> tuple[int, int]:
    """Trains by `python -m rlkit`; returns timesteps and gradient steps."""
    from rlkit import trainer
    from rlkit.cli import main as cli

    train, trained = trainer.Trainer.train, []

    def watched_train(self: trainer.Trainer) -> None:
        train(self)
        trained.append((self.timesteps, self.agent.engine.state_dict()["steps"]))  # type: ignore[attr-defined]

    arguments = [
        *workload.rlkit_arguments(),
        *SETTINGS[setting],
        *(f"total_timesteps={timesteps}", f"seed={seed}", f"device={device}", "vectorization=sync"),
        *("eval_interval=0", "eval_episodes=1", "final_eval_episodes=0", "checkpoint_interval=0"),
        f"hydra.run.dir={folder}/run",
    ]
    with mock.patch.object(trainer.Trainer, "train", watched_train), mock.patch("sys.argv", ["rlkit", *arguments]):
        cli.main()
    return trained[0]


def train_sb3(workload: Workload, device: str, timesteps: int, seed: int, folder: Path) -> tuple[int, int]:
    """Trains SB3's agent with its CnnPolicy, which has an equal network; returns timesteps and gradient steps."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure

    torch.set_num_threads(1)
    model = getattr(stable_baselines3, workload.agent.upper())(
        "CnnPolicy",
        make_vec_env(workload.env, workload.num_envs, seed=seed),
        device=device,
        seed=seed,
        **workload.sb3_arguments(),
    )
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(timesteps)
    model.logger.close()
    return model.num_timesteps, int(model.policy.optimizer.state_dict()["state"][0]["step"])


def one_setting(setting: str, device: str) -> dict[str, float]:
    """Measures milliseconds of single gradient steps and actions: by the clock on a GPU, of CPU time without one."""
    import numpy as np
    import torch
    from gymnasium import spaces

    from rlkit.agents.ppo import PPOCoefficients, ppo_loss
    from rlkit.buffers.batch import PolicyBatch
    from rlkit.buffers.device import Placement
    from rlkit.buffers.replay import ReplayBuffer
    from rlkit.engine.actor_critic import ActorCriticLoss
    from rlkit.engine.descent import Optimization
    from rlkit.engine.losses import dqn_loss
    from rlkit.engine.make import make_actor_critic, make_engine, make_q_engine, make_q_network
    from rlkit.engine.native.policy_gradient import ppo_gradient
    from rlkit.engine.native.q import dqn_gradient
    from rlkit.engine.q import QLoss, TDBatch
    from rlkit.setting import NetworkConfig, Setting
    from rlkit.system import gpu
    from rlkit.system.allocator import keep_freed_memory
    from rlkit.system.ranks import ALONE

    torch.set_num_threads(1)
    keep_freed_memory()
    compute = setting.split(", ")[0] if ", " in setting else "torch"
    config = NetworkConfig(amp="bfloat16" if "bfloat16" in setting else "off")
    space, seed, rng = spaces.Box(0, 255, (4, 84, 84), np.uint8), np.random.SeedSequence(0), np.random.default_rng(0)
    frames, actions = rng.integers(256, size=(1024, 4, 84, 84), dtype=np.uint8), rng.integers(6, size=1024)
    floats = rng.normal(size=(4, 1024)).astype(np.float32)
    made_for = Setting(space, spaces.Discrete(6), config, device=device, compute=compute)
    network, _ = make_actor_critic(made_for, seed)
    engine, _ = make_engine(network, ActorCriticLoss(ppo_loss, ppo_gradient), Optimization(0.5, 1e-5), made_for)
    engine.load(PolicyBatch((frames,), actions, floats[0] - 2, floats[1], floats[2], floats[3]))
    clip = PPOCoefficients("clip", 0.1, 0.0, None, 0.01, 0.5, True, ALONE)
    q_network, _ = make_q_network(made_for, 6, seed)
    q_engine, _ = make_q_engine(q_network, QLoss(dqn_loss, dqn_gradient), Optimization(10.0, 1e-8), made_for)
    batch = TDBatch((frames[:32],), actions[:32], floats[0, :32])
    places = None, Placement(torch.device(device), (0,))
    buffers = [ReplayBuffer(1000, 1, space, spaces.Discrete(6), images=place) for place in places]
    for buffer in buffers:
        fill(buffer, frames[:, 0])

    def replay(buffer: ReplayBuffer) -> None:
        batch = buffer.sample(32, rng)
        q_engine.target_outputs(batch.next_obs)
        q_engine.step(TDBatch(batch.obs, batch.action, floats[0, :32]), "huber", 1e-6)

    calls: dict[str, Callable[[], Any]] = {
        "PPO: gradient step, 256 frames": lambda: engine.step(rng.permutation(1024)[:256], clip, 1e-6),
        "PPO: values of 1,024": lambda: engine.evaluate((frames,)),
        "PPO: act on 8": lambda: engine.policy((frames[:8],)),
        "DQN: gradient step, 32 frames": lambda: q_engine.step(batch, "huber", 1e-6),
        "DQN: targets of 32": lambda: q_engine.target_outputs((frames[:32],)),
        "DQN: act on 1": lambda: q_engine.q_values((frames[:1],)),
        "DQN: 32 drawn, their targets and a step; images in the computer's memory": lambda: replay(buffers[0]),
        "DQN: the same, images as tensors on the device": lambda: replay(buffers[1]),
    }
    return {
        name: milliseconds(call, device, gpu.RECORD_AFTER_CALLS + gpu.WARM_UP_CALLS + 2) for name, call in calls.items()
    }


def fill(buffer: Any, frames: Any) -> None:
    """Fills the buffer with stacked frames of an episode that does not end."""
    import numpy as np

    from rlkit.buffers.transition import Transition

    no, yes = np.zeros(1, np.bool_), np.ones(1, np.bool_)
    stacks = [(frames[None, i : i + 4],) for i in range(len(frames) - 3)]
    for obs, next_obs in pairwise(stacks):
        buffer.add(Transition(obs, np.zeros(1, np.int64), np.ones(1), no, no, next_obs, {}, yes, None))


def milliseconds(call: Callable[[], Any], device: str, first: int, seconds: float = 1.5) -> float:
    """Measures the milliseconds of one call, as a mean over all calls within `seconds`.

    The `first` calls are left out, because they may have to compile.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    for _ in range(first):
        call()
    synchronize(device)
    count, start = 0, clock()
    while clock() - start < seconds:
        call()
        count += 1
    synchronize(device)
    return (clock() - start) / count * 1e3


def synchronize(device: str) -> None:
    """Waits until a GPU has done all its work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def markdown(report: dict[str, Any]) -> str:
    """Returns both tables in Markdown, with the command and the machine."""
    versions, unit = report["versions"], "" if report["device"] == "cuda" else "CPU "
    lines = [
        f"`{report['command']}`, on {report['machine']}; Python {versions['python']}, torch {versions['torch']}, "
        f"SB3 {versions['sb3']}."
    ]
    if report["device"] == "cpu":
        lines.append("Not measured: no GPU was at hand.")
    if report["runs"]:
        lines += [
            "",
            f"| timesteps per {unit}second | system | median (lowest – highest) | times SB3 |",
            "|---|---|---|---|",
        ]
    for work, found in report["runs"].items():
        theirs = median(run["steps_per_s"] for run in found["sb3"])
        for system, runs in found.items():
            speeds = [run["steps_per_s"] for run in runs]
            ratio = "" if system == "sb3" else f"**{median(speeds) / theirs:.2f} ×**"
            name = {"sb3": "SB3", "lean": "script in the style of LeanRL"}.get(system, f"rlkit, {system}")
            spread = f"{median(speeds):,.0f} ({min(speeds):,.0f} – {max(speeds):,.0f})"
            lines.append(f"| {report['works'][work]['title']} | {name} | {spread} | {ratio} |")
    if report["steps"]:
        lines += [
            "",
            f"| {unit}milliseconds of rlkit | {' | '.join(report['steps'])} |",
            "|---|" + "---|" * len(report["steps"]),
        ]
        for name in next(iter(report["steps"].values())):
            lines.append(f"| {name} | {' | '.join(f'{of[name]:.2f}' for of in report['steps'].values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
