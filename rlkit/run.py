"""A training run from its config: builds the parts, lets the trainer work, and writes down how it ended."""

from __future__ import annotations

import math
import platform
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from threadpoolctl import threadpool_limits

import rlkit
from rlkit.agents import make_agent
from rlkit.agents.base import Agent
from rlkit.collector import Collector
from rlkit.config import TrainConfig
from rlkit.engine.make import why_chosen
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.episodes import Evaluation, evaluate_policy
from rlkit.loggers import make_loggers
from rlkit.progress import Progress
from rlkit.run_folder import RunFolder
from rlkit.trainer import Trainer


@dataclass
class Result:
    """What training returns: the agent as it was at the end, the contents of summary.json, and the run folder."""

    agent: Agent
    summary: dict[str, Any]
    run_dir: Path


def run_training(config: TrainConfig, run_dir: Path, *, hydra_files: Mapping[str, str]) -> Result:
    """Trains as configured and writes the run folder; Ctrl-C saves before it raises KeyboardInterrupt.

    Raises RlkitError for a config, an environment or a folder that cannot work, before anything is written.
    """
    config.validate()
    env_seed, agent_seed, eval_seed, final_seed = np.random.SeedSequence(config.seed).generate_state(4)
    with ExitStack() as stack:
        env: dict[str, Any] = {**asdict(config.env), "kwargs": config.env_kwargs}
        factory = EnvFactory(**env)
        envs, choice = make_vector_env(factory, config.num_envs, config.vectorization)
        stack.callback(envs.close)
        agent = make_agent(
            config.agent,
            envs.single_observation_space,
            envs.single_action_space,
            network=config.network,
            num_envs=config.num_envs,
            seed=int(agent_seed),
            device=config.device,
            compute=config.compute,
        )
        agent.env = env
        buffer = agent.make_buffer(config.num_envs)
        collector = Collector(envs, _seeds(env_seed, config.num_envs), f"environment {config.env.id}")
        eval_envs = [EnvFactory(**env, training=False)() for _ in range(min(8, config.most_eval_episodes))]
        for eval_env in eval_envs:
            stack.callback(eval_env.close)
        folder = RunFolder.create(run_dir, hydra_files)
        loggers = make_loggers(config.logger, run_dir, asdict(config))
        for logger in loggers:
            stack.callback(logger.close)
        progress = stack.enter_context(Progress(config.total_timesteps))
        progress.say(f"{config.agent.name} on {config.env.id}, seed {config.seed}: {run_dir}")
        why = why_chosen(agent.model) if config.compute == "auto" else None
        progress.say(f"{choice}; {agent.compute} on {agent.device}{f': {why}' if why else ''}")

        def evaluate(episodes: int, seed: int = int(eval_seed)) -> Evaluation:
            return evaluate_policy(agent, eval_envs, episodes, seed=seed)

        trainer = Trainer(config, agent, buffer, collector, folder, loggers, progress, evaluate)
        stack.enter_context(_threads(agent))
        status = "failed"
        evaluation = None
        try:
            with _terminable():
                trainer.train()
                trainer.save("last")
                if config.final_eval_episodes:
                    evaluation = evaluate(config.final_eval_episodes, int(final_seed))
                status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            trainer.save("last")
            raise
        finally:
            summary = _summary(trainer, status, evaluation)
            folder.write_summary(summary)
            progress.say(_closing_words(summary, trainer))
        return Result(agent, summary, run_dir)


def _seeds(seed: Any, count: int) -> list[int]:
    """Independent seeds, so that runs whose seeds are neighbours share no environment."""
    return [int(s) for s in np.random.SeedSequence(int(seed)).generate_state(count) >> 1]


@contextmanager
def _threads(agent: Agent) -> Iterator[None]:
    """One thread for small networks, where handing work to more costs more than the work; BLAS's own and torch's."""
    if any(isinstance(module, torch.nn.Conv2d) for module in agent.model.modules()):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM, as cluster schedulers send it, stop a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _summary(trainer: Trainer, status: str, evaluation: Evaluation | None) -> dict[str, Any]:
    config, wall_time = trainer.config, time.perf_counter() - trainer.started
    return {
        "agent": config.agent.name,
        "env": config.env.id,
        "seed": config.seed,
        "device": trainer.agent.device,
        "compute": trainer.agent.compute,
        "total_timesteps": trainer.collector.timesteps,
        "episodes": trainer.episodes,
        "wall_time_s": round(wall_time, 3),
        "steps_per_second": round(trainer.collector.timesteps / wall_time, 1),
        "eval_return_mean": evaluation.return_mean if evaluation else None,
        "eval_return_std": evaluation.return_std if evaluation else None,
        "eval_episodes": len(evaluation.returns) if evaluation else 0,
        "best_eval_return_mean": trainer.best if math.isfinite(trainer.best) else None,
        "versions": {
            "rlkit": rlkit.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gymnasium": gymnasium.__version__,
            "numpy": np.__version__,
        },
        "status": status,
    }


def _closing_words(summary: Mapping[str, Any], trainer: Trainer) -> str:
    steps, seconds = summary["total_timesteps"], summary["wall_time_s"]
    lines = [f"{summary['status']} after {steps:,} timesteps in {seconds:.1f} s ({steps / seconds:,.0f} steps/s)"]
    if summary["eval_episodes"]:
        mean, std, count = (summary[f"eval_{key}"] for key in ("return_mean", "return_std", "episodes"))
        lines.append(f"evaluation: {mean:.2f} ± {std:.2f} over {count} episodes")
    path = trainer.folder.path
    saved = [which for which in ("last", "best") if trainer.folder.checkpoint(which).exists()]
    lines += [f"{which + ' checkpoint:':<17}{trainer.folder.checkpoint(which)}" for which in saved]
    lines.append(f"{'metrics:':<17}{path / 'metrics.csv'}")
    lines.append(f"{'summary:':<17}{path / 'summary.json'}")
    if saved:
        lines.append(f"evaluate, record: python -m rlkit.evaluate {path} video=true")
    return "\n".join(lines)
