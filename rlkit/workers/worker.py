"""The work of A3C's processes: a worker collects and learns, and the evaluator plays episodes with learned models.

Each process owns its environments and its network. A worker is built like any run, of a collector, a buffer and an
agent, except that all workers' agents share one set of parameters. In this module a worker is a spawned process that
talks to the main process by a pipe; in `rlkit.workers.ray_actors` it is an actor, which may run on another machine.
"""

from __future__ import annotations

import functools
import math
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from rlkit.agents.a3c import A3C
from rlkit.agents.base import Agent
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector, Episode
from rlkit.config import TrainConfig
from rlkit.engine.shared import SharedParameters
from rlkit.envs import EnvFactory
from rlkit.envs.lifetime import LazyEnvs
from rlkit.envs.vector import SyncVectorEnv
from rlkit.episodes import evaluate_policy
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.setting import Setting
from rlkit.system.allocator import keep_freed_memory
from rlkit.system.seeding import env_seeds, run_seeds, seed_globally
from rlkit.system.subnormals import flushed
from rlkit.system.threads import one_core
from rlkit.workers.budget import Budget
from rlkit.workers.parameter_server import RemoteParameters
from rlkit.workers.supervisor import Done, Failure, Ready

REPORT_INTERVAL = 0.1
"""Seconds between a worker's reports."""


class Task(NamedTuple):
    """Everything that a process needs to set itself up."""

    config: TrainConfig
    """The run's config."""
    factory: EnvFactory
    """Makes the environments."""
    spec: EnvSpec
    """The environment's registration, since the process may not have imported the module that registers it."""

    def packed(self) -> bytes:
        """Pickles the task for a child process of ours; raises RlkitError if the environment cannot be pickled."""
        try:
            return pickle.dumps(self)
        except Exception as error:
            why = f"it cannot be sent to a worker process: {type(error).__name__}: {error}"
            raise RlkitError(f"env {self.factory.id}: {why}; {OWN_MODULE}".replace("\n", " ")) from error


OWN_MODULE = "define and register it in a module of its own, and name that: env=my_module:MyEnv-v0"
"""Advice, in errors, for an environment that child processes cannot import."""


class Report(NamedTuple):
    """A worker's report of its work since its last report."""

    episodes: list[Episode]
    """The episodes that ended."""
    metrics: dict[str, float]
    """The last update's metrics."""


class Snapshot(NamedTuple):
    """A copy of a model, to be evaluated."""

    timesteps: int
    """Timesteps of training when it was copied."""
    model: dict[str, Any]
    """The model's tensors as arrays, by their names in `state_dict`."""


class Worker:
    """A worker's environments, agent and training loop."""

    def __init__(self, packed: bytes, index: int, starts: int, stack: ExitStack) -> None:
        """Sets up worker `index`, whose predecessors were started `starts` times; `stack` closes its environments."""
        task = _unpacked(packed)
        self.index, self.num_envs = index, task.config.num_envs
        # The first worker has the run's own seeds: A3C with one worker then trains exactly as A2C with this seed.
        seeds = run_seeds(task.config.seed, *((index, starts) if index or starts else ()))
        own_seeds = env_seeds(seeds.envs, self.num_envs)
        envs = SyncVectorEnv([functools.partial(task.factory, task.spec, seed) for seed in own_seeds])
        stack.callback(envs.close)
        self.agent = _agent(task, envs.single_observation_space, envs.single_action_space, seeds.agent)
        name = f"environment {task.factory.id}"
        self._collector = Collector(envs, own_seeds, name)

    def work(self, budget: Budget | RemoteParameters, send: Callable[[Report], object]) -> None:
        """Collects and learns until the budget is spent, and sends a report now and then and one at the end."""
        agent, steps_per_update = self.agent, self.agent.steps_per_update
        buffer = agent.make_buffer(self.num_envs)
        report, reported_at = Report([], {}), time.monotonic()
        while steps := budget.claim(self.index, steps_per_update * self.num_envs) // self.num_envs:
            progress = budget.progress
            rollout = buffer if steps == steps_per_update else RolloutBuffer(steps, self.num_envs)
            report.episodes.extend(self._collector.collect(agent, rollout, steps))
            # Numbers that are not finite go to the main process with the metrics, and it ends the run with an error.
            with flushed(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                metrics = agent.update(rollout, progress)
            budget.finish(self.index)
            report.metrics.update(metrics)
            if (now := time.monotonic()) - reported_at > REPORT_INTERVAL or not math.isfinite(sum(metrics.values())):
                send(report)
                report, reported_at = Report([], {}), now
        send(report)


def work(packed: bytes, index: int, starts: int, shared: SharedParameters, budget: Budget, pipe: Connection) -> None:
    """Runs a worker as a process of this machine: a target for `Supervisor`."""
    with _process(pipe) as stack:
        worker = Worker(packed, index, starts, stack)
        worker.agent.share(shared, index)
        pipe.send(Ready())
        pipe.recv()
        worker.work(budget, pipe.send)


def evaluate(packed: bytes, pipe: Connection) -> None:
    """Runs the evaluator as a process: evaluates each model that comes by the pipe, until None comes."""
    with _process(pipe) as stack:
        task = _unpacked(packed)
        config = task.config
        seeds = run_seeds(config.seed)
        seed_globally(seeds.evaluation)
        envs = LazyEnvs(functools.partial(task.factory, task.spec))
        stack.callback(envs.close)
        made = envs(min(8, config.eval_episodes))
        agent = _agent(task, made[0].observation_space, made[0].action_space, seeds.agent)
        pipe.send(Ready())
        while (model := pipe.recv()) is not None:
            agent.model.load_state_dict({name: torch.from_numpy(array) for name, array in model.items()})
            episodes, limit = config.eval_episodes, config.max_eval_episode_steps
            pipe.send(evaluate_policy(agent, made, episodes, seed=seeds.evaluation, max_episode_steps=limit))


def model_arrays(agent: Agent[Any]) -> dict[str, Any]:
    """Copies the tensors of an agent's model into arrays, by name, as `evaluate` receives them."""
    return {name: tensor.numpy().copy() for name, tensor in agent.model.state_dict().items()}


@contextmanager
def _process(pipe: Connection) -> Iterator[ExitStack]:
    """Wraps the body of a process: it sends `Done` or `Failure` when the body ends, and prints no traceback."""
    try:
        with ExitStack() as stack:
            stack.enter_context(one_core())  # every core has a process of its own
            yield stack
        pipe.send(Done())
    except (EOFError, ConnectionError):
        pass  # the main process is gone, or has closed its end of the pipe
    except BaseException as error:
        with suppress(OSError):
            pipe.send(failure(error))


def failure(error: BaseException) -> Failure:
    """Puts the exception that ends a process into one line."""
    text = str(error) if isinstance(error, RlkitError) else f"{type(error).__name__}: {error}"
    return Failure(" ".join(text.split()))


def _unpacked(packed: bytes) -> Task:
    try:
        task: Task = pickle.loads(packed)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise RlkitError(f"what the main program defines is not known in its workers ({why}); {OWN_MODULE}") from error
    return task


def _agent(task: Task, observation_space: Any, action_space: Any, seed: int) -> A3C:
    config = task.config
    network, num_envs = config.network, config.num_envs
    spaces = observation_space, action_space
    setting = Setting(*spaces, network, num_envs, seed, config.device, config.compute)
    agent = make_agent(config.agent, setting, config.own_classes.get("agent", ""))
    assert isinstance(agent, A3C)
    if len(agent.network.cnns):
        keep_freed_memory()
    return agent
