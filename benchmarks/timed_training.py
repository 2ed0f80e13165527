"""One training run of rlkit or Stable-Baselines3, with a clock around its training loop; for throughput.py.

    python benchmarks/timed_training.py rlkit|sb3 RUN_DIR TIMESTEPS SEED

Writes RUN_DIR/timing.json. Both systems work with all their everyday features and the same hyperparameters (RL Zoo's
for PPO on CartPole-v1): rlkit by its own command line, SB3 with what its documentation recommends for the same.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HYPERPARAMETERS = {
    "num_envs": 8,
    "num_steps": 32,
    "minibatch_size": 256,
    "num_epochs": 20,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "learning_rate": 1e-3,  # linear to 0
    "clip_coef": 0.2,  # linear to 0
    "ent_coef": 0.0,
}
EVALUATIONS, EVAL_EPISODES, FINAL_EVAL_EPISODES, LOG_ROWS = 10, 10, 20, 200


class Clock:
    """The wall and CPU seconds spent within `running`."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measures one block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall_s, self.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


def train_rlkit(run_dir: Path, timesteps: int, seed: int, clock: Clock) -> tuple[int, float]:
    """`python -m rlkit` on the same arguments; returns the timesteps and the return of the final evaluation."""
    from rlkit import cli, trainer

    train = trainer.Trainer.train

    def timed_train(self: trainer.Trainer) -> None:
        with clock.running():
            train(self)

    trainer.Trainer.train = timed_train  # type: ignore[method-assign]
    on_agent = [f"agent.{key}={value}" for key, value in HYPERPARAMETERS.items() if key != "num_envs"]
    sys.argv = [
        "rlkit",
        "agent=ppo",
        "env=CartPole-v1",
        "~tuned",
        f"total_timesteps={timesteps}",
        f"seed={seed}",
        f"num_envs={HYPERPARAMETERS['num_envs']}",
        *on_agent,
        "agent.learning_rate_schedule=linear",
        "agent.clip_coef_schedule=linear",
        f"eval_interval={timesteps // EVALUATIONS}",
        f"checkpoint_interval={timesteps // EVALUATIONS}",
        f"log_interval={timesteps // LOG_ROWS}",
        f"eval_episodes={EVAL_EPISODES}",
        f"final_eval_episodes={FINAL_EVAL_EPISODES}",
        f"hydra.run.dir={run_dir}/run",
    ]
    cli.main()
    summary = json.loads((run_dir / "run" / "summary.json").read_text())
    return summary["total_timesteps"], summary["eval_return_mean"]


def train_sb3(run_dir: Path, timesteps: int, seed: int, clock: Clock) -> tuple[int, float]:
    """SB3's PPO; returns the timesteps and the return of the final evaluation."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.logger import configure

    torch.set_num_threads(1)
    given = HYPERPARAMETERS
    num_envs = int(given["num_envs"])
    rollout = num_envs * int(given["num_steps"])
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", num_envs, seed=seed),
        n_steps=int(given["num_steps"]),
        batch_size=int(given["minibatch_size"]),
        n_epochs=int(given["num_epochs"]),
        gamma=given["gamma"],
        gae_lambda=given["gae_lambda"],
        learning_rate=lambda remaining: remaining * given["learning_rate"],
        clip_range=lambda remaining: remaining * given["clip_coef"],
        ent_coef=given["ent_coef"],
        device="cpu",
        seed=seed,
    )
    model.set_logger(configure(str(run_dir), ["csv"]))
    eval_env = make_vec_env("CartPole-v1", num_envs, seed=seed + 1000)
    interval = timesteps // EVALUATIONS // num_envs  # callbacks count vector steps
    callbacks = [
        EvalCallback(
            eval_env,
            n_eval_episodes=EVAL_EPISODES,
            eval_freq=interval,
            best_model_save_path=str(run_dir / "best"),
            verbose=0,
        ),
        CheckpointCallback(interval, str(run_dir / "checkpoints")),
    ]
    with clock.running():
        model.learn(timesteps, callbacks, log_interval=max(1, timesteps // LOG_ROWS // rollout))
    model.save(run_dir / "last")
    eval_return, _ = evaluate_policy(model, eval_env, FINAL_EVAL_EPISODES)
    assert isinstance(eval_return, float)
    return model.num_timesteps, eval_return


def main() -> None:
    """Trains, and writes timing.json."""
    system, run_dir, timesteps, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    clock = Clock()
    train = {"rlkit": train_rlkit, "sb3": train_sb3}[system]
    steps, eval_return = train(run_dir, timesteps, seed, clock)
    timing = {"steps": steps, "eval_return": eval_return, "train_wall_s": clock.wall_s, "train_cpu_s": clock.cpu_s}
    (run_dir / "timing.json").write_text(json.dumps(timing))


if __name__ == "__main__":
    main()
