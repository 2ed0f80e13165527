"""One training run of rlkit or another library, with a clock around its training loop; for throughput.py.

    python benchmarks/timed_training.py WORKLOAD SYSTEM RUN_DIR TIMESTEPS SEED [EVALUATIONS]

SYSTEM is rlkit, torch (rlkit without its C engine), sb3[:NUM_ENVS], single_file, tianshou, torchrl, sbx or rlox.

Writes RUN_DIR/timing.json. rlkit and SB3 have all their everyday features on, with equal hyperparameters (those of
workloads.py): rlkit by its own command line, SB3 as its documentation recommends. With 0 EVALUATIONS, both leave these
out, and the one at the end as well. A profile of rlkit, `rlkit:profile=true`, is of CPU time.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from workloads import WORKLOADS, Workload

EVALUATIONS = 10
"""Number of evaluations during a run; 0: there is none at its end either."""
CHECKPOINTS = 10
"""Number of checkpoints during a run."""
EVAL_EPISODES = 10
"""Episodes of each of them."""
FINAL_EVAL_EPISODES = 20
"""Episodes of the evaluation at the end."""
LOG_ROWS = 200
"""Rows of the CSV log."""
EVAL_ENVS = 10
"""Environments that evaluations play in; these are rlkit's own numbers."""


class Clock:
    """A clock that counts the wall and CPU seconds spent within `running`."""

    compile_s = 0.0
    """Wall seconds of compiling, which are not counted."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measures one block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall_s, self.cpu_s = time.perf_counter() - wall, time.process_time() - cpu

    def exclude_compiling(self, seconds: float) -> None:
        """Leaves out wall seconds of the block, and a proportional part of its CPU seconds."""
        self.compile_s = seconds
        remaining = 1 - seconds / self.wall_s
        self.wall_s, self.cpu_s = self.wall_s * remaining, self.cpu_s * remaining


class Trained(NamedTuple):
    """The counts and the results of a run."""

    steps: int
    gradient_steps: int
    eval_return: float | None
    """Mean return of the final evaluation."""
    solved_at: float | None = None
    """Time, by `time.time`, of the first evaluation that reached the workload's `solved`."""


def train_rlkit(workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Clock, *more: str) -> Trained:
    """Trains by `python -m rlkit` with the workload's arguments and `more` of them."""
    from rlkit import profiling, trainer
    from rlkit.cli import main as cli

    train, record = trainer.Trainer.train, trainer.Trainer.record
    gradient_steps, solved_at = 0, [math.inf]

    def timed_record(self: trainer.Trainer, evaluation: Any, *more: Any) -> None:
        record(self, evaluation, *more)
        if workload.solved is not None and evaluation.return_mean >= workload.solved:
            solved_at.append(time.time())

    def timed_train(self: trainer.Trainer) -> None:
        nonlocal gradient_steps
        with clock.running():
            train(self)
        gradient_steps = self.agent.engine.state_dict()["steps"]  # type: ignore[attr-defined]

    arguments = [
        *workload.rlkit_arguments(),
        f"total_timesteps={timesteps}",
        f"seed={seed}",
        f"eval_interval={timesteps // EVALUATIONS if EVALUATIONS else 0}",
        f"checkpoint_interval={timesteps // CHECKPOINTS}",
        f"log_interval={timesteps // LOG_ROWS}",
        f"eval_episodes={EVAL_EPISODES}",
        f"final_eval_episodes={FINAL_EVAL_EPISODES if EVALUATIONS else 0}",
        f"hydra.run.dir={run_dir}/run",
        *more,
    ]
    with (
        mock.patch.object(trainer.Trainer, "train", timed_train),
        mock.patch.object(trainer.Trainer, "record", timed_record),
        mock.patch.object(profiling, "CLOCK", time.process_time),
        mock.patch("sys.argv", ["rlkit", *arguments]),
    ):
        cli.main()
    summary = json.loads((run_dir / "run" / "summary.json").read_text())
    return Trained(summary["total_timesteps"], gradient_steps, summary["eval_return_mean"], first(solved_at))


def train_by_torch(workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Clock) -> Trained:
    """Trains rlkit as if the C engine had not been built."""
    return train_rlkit(workload, run_dir, timesteps, seed, clock, "compute=torch")


def train_sb3(
    workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Clock, num_envs: str = ""
) -> Trained:
    """Trains SB3's agent of the workload's name."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.logger import configure

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the cores that throughput.py assigns to this process
    envs = int(num_envs or workload.num_envs)
    model = getattr(stable_baselines3, workload.agent.upper())(
        "MlpPolicy",
        make_vec_env(workload.env, envs, seed=seed),
        device="cpu",
        seed=seed,
        **workload.sb3_arguments(envs),
    )
    model.set_logger(configure(str(run_dir), ["csv"]))
    eval_env = make_vec_env(workload.env, EVAL_ENVS, seed=seed + 1000)
    interval = timesteps // (EVALUATIONS or CHECKPOINTS) // envs  # in vector steps, which callbacks count
    evaluations = EvalCallback(
        eval_env,
        n_eval_episodes=EVAL_EPISODES,
        eval_freq=interval,
        best_model_save_path=str(run_dir / "best"),
        verbose=0,
    )

    class Solved(BaseCallback):
        """Records the time of the first evaluation that solves the environment."""

        def _on_step(self) -> bool:
            if workload.solved is not None and evaluations.best_mean_reward >= workload.solved:
                solved_at.append(time.time())
            return True

    solved_at, solved = [math.inf], Solved()
    callbacks: list[BaseCallback] = [CheckpointCallback(interval, str(run_dir / "checkpoints"))]
    if EVALUATIONS:
        callbacks += [evaluations, solved]
    if workload.agent == "dqn":
        log_interval = 4  # in episodes; SB3's default, which gives fewer rows than rlkit writes
    else:
        rollout = workload.num_envs * workload.hyperparameters["num_steps"]
        log_interval = max(1, timesteps // LOG_ROWS // rollout)
    with clock.running():
        model.learn(timesteps, callbacks, log_interval=log_interval)
    model.logger.close()
    model.save(run_dir / "last")
    eval_return = evaluate_policy(model, eval_env, FINAL_EVAL_EPISODES)[0] if EVALUATIONS else None
    gradient_steps = model.policy.optimizer.state_dict()["state"][0]["step"]
    assert eval_return is None or isinstance(eval_return, float)
    return Trained(model.num_timesteps, int(gradient_steps), eval_return, first(solved_at))


def first(times: list[float]) -> float | None:
    """Returns the earliest of the times, or None if none is finite."""
    return min(times) if min(times) < math.inf else None


def train_single_file(workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Clock) -> Trained:
    """Trains by a script in CleanRL's style, single_file.py."""
    import single_file

    with clock.running():
        steps, gradient_steps = single_file.train(workload, timesteps, seed)
    return Trained(steps, gradient_steps, None)


def train_tianshou(*arguments: Any) -> Trained:
    """Trains Tianshou's agent of the workload's name by peers.py."""
    import peers

    return Trained(*peers.train_tianshou(*arguments, evaluations=EVALUATIONS))


def train_torchrl(*arguments: Any) -> Trained:
    """Trains with torchrl's parts by peers.py."""
    import peers

    return Trained(*peers.train_torchrl(*arguments, evaluations=EVALUATIONS))


def train_sbx(*arguments: Any) -> Trained:
    """Trains SBX's agent of the workload's name by peers.py, which evaluates nothing."""
    import peers

    return Trained(*peers.train_sbx(*arguments))


def train_rlox(*arguments: Any) -> Trained:
    """Trains rlox's agent of the workload's name by peers.py, which evaluates nothing."""
    import peers

    return Trained(*peers.train_rlox(*arguments))


TRAIN: dict[str, Callable[..., Trained]] = {
    "rlkit": train_rlkit,
    "torch": train_by_torch,
    "sb3": train_sb3,
    "single_file": train_single_file,
    "tianshou": train_tianshou,
    "torchrl": train_torchrl,
    "sbx": train_sbx,
    "rlox": train_rlox,
}


def main() -> None:
    """Trains once and writes timing.json."""
    global EVALUATIONS
    workload, system, run_dir, timesteps, seed, *evaluations = sys.argv[1:]
    EVALUATIONS = int(evaluations[0]) if evaluations else EVALUATIONS
    clock, (name, *more) = Clock(), system.split(":")
    trained = TRAIN[name](WORKLOADS[workload], Path(run_dir), int(timesteps), int(seed), clock, *more)
    timing = {
        **trained._asdict(),
        "train_wall_s": clock.wall_s,
        "train_cpu_s": clock.cpu_s,
        "compile_s": clock.compile_s,
    }
    (Path(run_dir) / "timing.json").write_text(json.dumps(timing))


if __name__ == "__main__":
    main()
