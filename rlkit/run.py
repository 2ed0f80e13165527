"""A training run from its config: builds the parts, lets the trainer work, and writes down how it ended."""

from __future__ import annotations

import functools
import math
import platform
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import rlkit
from rlkit.agents.a3c import A3C
from rlkit.agents.base import Agent
from rlkit.checkpoint import RUN_FILE
from rlkit.collector import Collector
from rlkit.config import TrainConfig
from rlkit.engine.make import vector_instructions, why_chosen
from rlkit.envs import EnvFactory, make_noted_env, make_vector_env
from rlkit.envs.lifetime import LazyEnvs, close_all
from rlkit.episodes import Evaluation, Predictor, evaluate_policy
from rlkit.errors import RlkitError
from rlkit.interruption import InterruptedRun, interrupted_run, stoppable
from rlkit.networks.features import encoder_notes
from rlkit.networks.heads import action_notes
from rlkit.profiling import Profile, table
from rlkit.registry import make_agent
from rlkit.runs.loggers import make_loggers
from rlkit.runs.pictures import draw_learning_curves
from rlkit.runs.progress import Progress
from rlkit.runs.run_folder import LostFolder, RunFolder
from rlkit.setting import Setting
from rlkit.space_json import to_json
from rlkit.system.allocator import keep_freed_memory
from rlkit.system.dotted_paths import python_path
from rlkit.system.processes import ending_signals, handled
from rlkit.system.ranks import LostRank, Ranks, launched
from rlkit.system.resources import peak_memory_mib
from rlkit.system.seeding import Seeds, env_seeds, run_seeds, seeded_globally
from rlkit.system.terminal import remarked
from rlkit.system.threads import one_thread, one_thread_unless_asked
from rlkit.trainer import CollectAndUpdate, Output, Source, Trainer
from rlkit.workers.asynchronous import AsynchronousTrainer, Workers
from rlkit.workers.ray_workers import RayWorkers

EVAL_ENVS = 10
"""Environments that an evaluation plays at once."""


@dataclass
class Parts:
    """The parts of a run that depend on how it gets its experience: in this process, or from workers."""

    agent: Agent[Any]
    source: Source
    make_trainer: Callable[[Output], Trainer]
    close: Callable[[], None]
    """Ends what training alone needs: its environments, or the workers that have them."""
    notes: list[str] = field(default_factory=list)
    """Short sentences on what was chosen, for the user."""


@dataclass
class Result:
    """The result of training: the agent as it was at the end, the contents of summary.json, and the run folder.

    Of torchrun's processes, only the first one's folder exists.
    """

    agent: Agent[Any]
    summary: dict[str, Any]
    run_dir: Path


def run_training(config: TrainConfig, run_dir: Path, *, hydra_files: Mapping[str, str], resume: bool = False) -> Result:
    """Trains as configured and writes the run folder; Ctrl-C saves before it raises KeyboardInterrupt.

    With `resume`, the run in the folder goes on, and `hydra_files` replace those that are there. Of torchrun's
    processes only the first one evaluates, saves, and writes anything. Raises RlkitError for a config, an environment
    or a folder that cannot work, before anything is written.
    """
    config.validate()
    seeds, ranks = run_seeds(config.seed), Ranks(launched())
    env: dict[str, Any] = {**asdict(config.env), "kwargs": config.env_kwargs}
    with ExitStack() as stack:
        stored = interrupted_run(config, run_dir, ranks, stack) if resume else None
        if stored:
            config = replace(config, vectorization=stored.vectorization or config.vectorization)
        stack.enter_context(seeded_globally(seeds.envs))  # for environments that draw from the global generators
        build = _asynchronous if config.abilities.has_workers else _synchronous
        parts = build(config, EnvFactory(**env), seeds, ranks, stack)
        parts.agent.env = env
        stack.enter_context(_threads(parts.agent))
        if ranks.rank:
            return _follow(config, parts, run_dir)
        evaluations = Evaluations(config, parts.agent, env, seeds, stack)
        folder = stored.folder if stored else RunFolder.create(run_dir, hydra_files)
        stack.callback(folder.release)
        if stored:
            parts.notes += stored.restore(parts.source)  # before anything of the run's is changed
        output = _output(config, parts, folder, evaluations, stack, stored)
        trainer = parts.make_trainer(output)
        if stored:
            stored.hand_over(trainer)
            folder.write_configuration(hydra_files)
        result = _lead(config, parts, trainer, evaluations)
        if config.curves:
            draw_learning_curves(run_dir)
        return result


class Evaluations:
    """The evaluations of a run, in environments that are made when the first one is due."""

    def __init__(
        self, config: TrainConfig, agent: Predictor, env: Mapping[str, Any], seeds: Seeds, stack: ExitStack
    ) -> None:
        """Leaves the closing of the environments to `stack`; `env` has the arguments of their factory."""
        self.say: Callable[[str], object] = lambda line: None
        """Tells the user a line."""
        self._config, self._agent, self._seeds = config, agent, seeds
        self._envs = LazyEnvs(EnvFactory(**env, training=False), lambda line: self.say(line))
        self._possible = True
        stack.callback(self._envs.close)

    def during_training(self, episodes: int) -> Evaluation | None:
        """Evaluates while training's environments exist; returns None if no further one can be made beside them."""
        try:
            envs = self._made(episodes) if self._possible else []
        except RlkitError as error:
            self._possible = False
            self.say(f"no evaluations before the end, when the environments of training are closed: {error}")
            return None
        return self._played(envs, episodes, self._seeds.evaluation) if envs else None

    def at_the_end(self, episodes: int) -> Evaluation:
        """Evaluates after training."""
        return self._played(self._made(episodes), episodes, self._seeds.final_evaluation)

    def _made(self, episodes: int) -> list[gymnasium.Env[Any, Any]]:
        with seeded_globally(self._seeds.evaluation):  # training must not notice if constructors draw
            return self._envs(min(episodes, EVAL_ENVS))

    def _played(self, envs: list[gymnasium.Env[Any, Any]], episodes: int, seed: int) -> Evaluation:
        limit = self._config.max_eval_episode_steps
        played = evaluate_policy(self._agent, envs, episodes, seed=seed, max_episode_steps=limit)
        if remark := played.remark():
            self.say(remark)
        return played


def _output(
    config: TrainConfig,
    parts: Parts,
    folder: RunFolder,
    evaluations: Evaluations,
    stack: ExitStack,
    stored: InterruptedRun | None,
) -> Output:
    """Makes the loggers, and tells the user what was chosen."""
    agent, done = parts.agent, stored.timesteps if stored else 0
    resume_at = done if stored else None
    loggers = make_loggers(config.logger, folder.path, asdict(config), own=config.own_classes, resume_at=resume_at)
    for logger in loggers:
        stack.callback(logger.close)
    progress = stack.enter_context(Progress(config.total_timesteps, done=done, silent=not config.verbose))
    progress.say(f"{config.agent.name} on {config.env.id}, seed {config.seed}: {folder.path}")
    why = why_chosen(agent.model) if config.compute == "auto" else None
    simd = vector_instructions(agent.compute)
    engine = f"{agent.compute} on {agent.device}{f' with {simd}' if simd else ''}"
    progress.say("; ".join([*parts.notes, f"{engine}: {why}" if why else engine]))

    evaluations.say = progress.say
    return Output(folder, loggers, progress, evaluations.during_training)


def _lead(config: TrainConfig, parts: Parts, trainer: Trainer, evaluations: Evaluations) -> Result:
    """Trains, evaluates at the end, and writes down how the run ended, however it ends."""
    profile = Profile(trainer, parts.source) if isinstance(parts.source, CollectAndUpdate) and config.profile else None
    status = "failed"
    evaluation = None
    signals = ending_signals()
    with handled(signals, signal.SIG_IGN):  # while it ends: torchrun sends SIGTERM to all as soon as one has ended
        try:
            with stoppable(signals, trainer):
                with profile.running() if profile else nullcontext():
                    trainer.train()
                    trainer.save_all()
                parts.close()  # some environments cannot exist twice
                trainer.clock.stop()  # only now, because the CPU time of worker processes is known when they have ended
                if config.final_eval_episodes:
                    evaluation = evaluations.at_the_end(config.final_eval_episodes)
                trainer.folder.check_kept()
                status = "finished"
        except LostFolder:
            with remarked("saving the agent"):  # a removed folder must not cost the agent
                trainer.save("last")
            raise
        except (KeyboardInterrupt, LostRank):
            status = "interrupted"
            with remarked("saving the agent"):
                trainer.save("last")
            raise
        finally:
            summary = _summary(trainer, status, evaluation)
            with nullcontext() if status == "finished" else remarked("writing the summary"):  # after the first error
                trainer.folder.write_summary(summary)
            with remarked("the profile" if profile else "the closing words"):
                if profile:
                    report = profile.report()
                    trainer.folder.write_profile(report)
                    trainer.progress.say(table(report))
                trainer.progress.say(_closing_words(summary, trainer))
    return Result(parts.agent, summary, trainer.folder.path)


def _follow(config: TrainConfig, parts: Parts, run_dir: Path) -> Result:
    """Trains on a rank other than the first, which alone logs, evaluates and saves."""

    def evaluate(episodes: int) -> Evaluation:
        raise AssertionError("never due")

    progress = Progress(config.total_timesteps, silent=True)
    trainer = parts.make_trainer(Output(RunFolder(run_dir), [], progress, evaluate))
    with handled(ending_signals(), signal.default_int_handler):
        trainer.train()
    return Result(parts.agent, _summary(trainer, "finished", None), run_dir)


def _synchronous(config: TrainConfig, factory: EnvFactory, seeds: Seeds, ranks: Ranks, stack: ExitStack) -> Parts:
    """Makes the parts of a process that steps a vector environment and learns, alone or under torchrun."""
    num_envs = ranks.per_rank(config.num_envs)
    envs, choice = make_vector_env(factory, num_envs, config.vectorization, seeds.envs)
    close = functools.partial(close_all, [envs])
    stack.callback(close)
    agent = _agent(config, num_envs, envs.single_observation_space, envs.single_action_space, seeds, ranks)
    buffer = agent.make_buffer(num_envs)
    notes = [choice, *agent.notes, *action_notes(envs.single_action_space, config.network)]
    notes += [*encoder_notes(envs.single_observation_space, config.network.encoder), *config.remarks()]
    own_seeds = ranks.shard(env_seeds(seeds.envs, config.num_envs))
    collector = Collector(envs, own_seeds, f"environment {config.env.id}")
    lockstep = envs.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP
    stack.enter_context(ranks.process_group(agent.model, f"{rlkit.__version__} {config}", lockstep=lockstep))
    if ranks.size > 1:
        notes.append(f"{ranks.size} processes with {num_envs} environments each")
    if ranks.rank:
        config = replace(config, eval_interval=0, checkpoint_interval=0)  # the first one does both
    source = CollectAndUpdate(agent, buffer, collector)
    return Parts(agent, source, functools.partial(Trainer, config, agent, source), close, notes)


def _asynchronous(config: TrainConfig, factory: EnvFactory, seeds: Seeds, ranks: Ranks, stack: ExitStack) -> Parts:
    """Starts A3C's workers, each with its own environments: processes on this machine, or actors on a Ray cluster."""
    env, env_notes = make_noted_env(factory)
    agent = _agent(config, config.num_envs, env.observation_space, env.action_space, seeds, ranks)
    close_all([env])
    if not isinstance(agent, A3C):
        raise RlkitError(
            f"{type(agent).__name__} has workers by its config's `abilities`, which agents derived from A3C can have; "
            "expected a class that inherits from rlkit.agents.a3c.A3C, or no has_workers"
        )
    pool: type[Workers | RayWorkers] = RayWorkers if config.distributed == "ray" else Workers
    workers = pool(config, agent, factory)
    stack.callback(workers.stop)
    workers.start()
    make_trainer = functools.partial(AsynchronousTrainer, config, agent, workers)
    notes = [str(workers), *env_notes, *action_notes(agent.action_space, config.network)]
    return Parts(agent, workers, make_trainer, lambda: None, notes)  # training ends with its workers' end


def _agent(
    config: TrainConfig,
    num_envs: int,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    seeds: Seeds,
    ranks: Ranks,
) -> Agent[Any]:
    for space in (observation_space, action_space):
        to_json(space)  # what cannot be saved is told now, not when the first checkpoint is due
    setting = Setting(
        observation_space,
        action_space,
        config.network,
        num_envs=num_envs,
        seed=seeds.agent,
        device=config.device,
        compute=config.compute,
        ranks=ranks,
    )
    return make_agent(config.agent, setting, config.own_classes.get("agent", ""))


@contextmanager
def _threads(agent: Agent[Any]) -> Iterator[None]:
    """Limits torch and BLAS to one thread; networks with convolutions may have those of OMP_NUM_THREADS."""
    convolutional = any(isinstance(module, torch.nn.Conv2d) for module in agent.model.modules())
    if convolutional:
        keep_freed_memory()
    with one_thread_unless_asked() if convolutional else one_thread():
        yield


def _summary(trainer: Trainer, status: str, evaluation: Evaluation | None) -> dict[str, Any]:
    config, wall_time = trainer.config, time.perf_counter() - trainer.started
    return {
        "agent": config.agent.name,
        "env": config.env.id,
        "seed": config.seed,
        "device": trainer.agent.device,
        "compute": trainer.agent.compute,
        "simd": vector_instructions(trainer.agent.compute),
        "total_timesteps": trainer.timesteps,
        "episodes": trainer.episodes,
        "wall_time_s": round(wall_time, 3),
        "steps_per_second": round(trainer.timesteps / wall_time, 1),
        "training_time_s": round(trainer.clock.wall_s, 3),
        "training_cpu_s": round(trainer.clock.cpu_s, 3),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "eval_return_mean": evaluation.return_mean if evaluation else None,
        "eval_return_std": evaluation.return_std if evaluation else None,
        "eval_episodes": len(evaluation.returns) if evaluation else 0,
        "best_eval_return_mean": trainer.best if math.isfinite(trainer.best) else None,
        **trainer.facts(),
        "versions": versions(),
        "status": status,
    }


def versions() -> dict[str, str]:
    """Returns the versions on which a run's results depend."""
    return {
        "rlkit": rlkit.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "numpy": np.__version__,
    }


def _closing_words(summary: Mapping[str, Any], trainer: Trainer) -> str:
    steps, seconds = summary["total_timesteps"], summary["wall_time_s"]
    speed = f"{summary['steps_per_second']:,.0f} steps/s"
    lines = [f"{summary['status']} after {steps:,} timesteps in {seconds:.1f} s ({speed})"]
    if steps < (starts := trainer.config.agent.steps_without_learning()):
        lines.append(f"nothing was learned: the agent only collects in its first {starts:,} timesteps")
    if summary["eval_episodes"]:
        mean, std, count = (summary[f"eval_{key}"] for key in ("return_mean", "return_std", "episodes"))
        lines.append(f"evaluation: {mean:.2f} ± {std:.2f} over {count} episodes")
    path, config = trainer.folder.path, trainer.config
    saved = [which for which in ("last", "best") if trainer.folder.checkpoint(which).exists()]
    places = {f"{which} checkpoint:": trainer.folder.checkpoint(which) for which in saved}
    places |= {"metrics:": path / "metrics.csv", "summary:": path / "summary.json"}
    lines += [f"{name:<17}{file}" for name, file in places.items() if file.exists()]
    if saved:
        own = [path for path in (config.env.id, config.network.module, *config.own_classes.values()) if path]
        place = shlex.quote(str(path))
        lines.append(f"evaluate, record: {python_path(own)}python -m rlkit.evaluate {place} video=true")
        if trainer.spent < 1 and (trainer.folder.checkpoint("last") / RUN_FILE).exists():
            lines.append(f"go on:           {python_path(own)}python -m rlkit resume={place}")
    return "\n".join(lines)
