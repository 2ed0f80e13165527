"""What A3C's processes do: a worker collects and learns, the evaluator plays episodes with what has been learned.

Each owns its environments and its network. A worker is the toolkit's usual picture, collector, buffer and agent, except
that its agent's parameters are everyone's. Here it is a process that is started by spawn and talks to the main process
by a pipe; `rlkit.workers.ray_actors` has it on another machine.
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
from threadpoolctl import threadpool_limits

from rlkit.agents import make_agent
from rlkit.agents.a3c import A3C
from rlkit.agents.base import Agent
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector, Episode
from rlkit.config import TrainConfig
from rlkit.engine.shared import SharedParameters
from rlkit.envs import EnvFactory
from rlkit.envs.vector import SyncVectorEnv
from rlkit.episodes import evaluate_policy
from rlkit.errors import RlkitError
from rlkit.setting import Setting
from rlkit.system.allocator import keep_freed_memory
from rlkit.system.seeding import env_seeds, run_seeds
from rlkit.workers.budget import Budget
from rlkit.workers.parameter_server import RemoteParameters
from rlkit.workers.supervisor import Done, Failure, Ready

REPORT_INTERVAL = 0.1  # seconds between a worker's reports


class Task(NamedTuple):
    """What every process of a run has to know."""

    config: TrainConfig
    factory: EnvFactory
    spec: EnvSpec
    """The environment's registration, which the process need not know otherwise."""

    def packed(self) -> bytes:
        """The task as bytes, for a process; raises RlkitError where the environment cannot be sent to one."""
        try:
            return pickle.dumps(self)
        except Exception as error:
            why = f"it cannot be sent to a worker process: {type(error).__name__}: {error}"
            raise RlkitError(f"env {self.factory.id}: {why}; {OWN_MODULE}".replace("\n", " ")) from error


OWN_MODULE = "define and register it in a module of its own, and name that: env=my_module:MyEnv-v0"


class Report(NamedTuple):
    """What a worker tells about its work since the last time."""

    episodes: list[Episode]
    metrics: dict[str, float]
    """Of the last update."""


class Snapshot(NamedTuple):
    """A model to evaluate."""

    timesteps: int
    model: dict[str, Any]
    """Its tensors as arrays, by name."""


class Worker:
    """A worker's environments, its agent, and its loop."""

    def __init__(self, packed: bytes, index: int, starts: int, stack: ExitStack) -> None:
        """Number `index`; `starts` tells it from those before it. What has to be closed is given to `stack`."""
        task = _unpacked(packed)
        self.index, self.num_envs = index, task.config.num_envs
        # The first worker's seeds are the run's own: alone, it does what A2C does with the same seed.
        seeds = run_seeds(task.config.seed, *((index, starts) if index or starts else ()))
        envs = SyncVectorEnv([functools.partial(task.factory, task.spec)] * self.num_envs)
        stack.callback(envs.close)
        self.agent = _agent(task, envs.single_observation_space, envs.single_action_space, seeds.agent)
        name = f"environment {task.factory.id}"
        self._collector = Collector(envs, env_seeds(seeds.envs, self.num_envs), name)

    def work(self, budget: Budget | RemoteParameters, send: Callable[[Report], object]) -> None:
        """Collects and learns until the budget is spent, and reports now and then; the last report is the end."""
        agent, steps_per_update = self.agent, self.agent.steps_per_update
        buffer = agent.make_buffer(self.num_envs)
        report, reported_at = Report([], {}), time.monotonic()
        while steps := budget.claim(self.index, steps_per_update * self.num_envs) // self.num_envs:
            progress = budget.progress
            rollout = buffer if steps == steps_per_update else RolloutBuffer(steps, self.num_envs)
            report.episodes.extend(self._collector.collect(agent, rollout, steps))
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the main process reports it
                metrics = agent.update(rollout, progress)
            budget.finish(self.index)
            report.metrics.update(metrics)
            if (now := time.monotonic()) - reported_at > REPORT_INTERVAL or not math.isfinite(sum(metrics.values())):
                send(report)
                report, reported_at = Report([], {}), now
        send(report)


def work(packed: bytes, index: int, starts: int, shared: SharedParameters, budget: Budget, pipe: Connection) -> None:
    """A worker as a process of this machine."""
    with _process(pipe) as stack:
        worker = Worker(packed, index, starts, stack)
        worker.agent.share(shared, index)
        pipe.send(Ready())
        pipe.recv()
        worker.work(budget, pipe.send)


def evaluate(packed: bytes, pipe: Connection) -> None:
    """Evaluates the models that come along the pipe, on environments of its own, until there is no more."""
    with _process(pipe) as stack:
        task = _unpacked(packed)
        config = task.config
        make = functools.partial(task.factory, task.spec)
        envs = [make() for _ in range(min(8, config.eval_episodes))]
        for env in envs:
            stack.callback(env.close)
        seeds = run_seeds(config.seed)
        agent = _agent(task, envs[0].observation_space, envs[0].action_space, seeds.agent)
        pipe.send(Ready())
        while (model := pipe.recv()) is not None:
            agent.model.load_state_dict({name: torch.from_numpy(array) for name, array in model.items()})
            pipe.send(evaluate_policy(agent, envs, config.eval_episodes, seed=seeds.evaluation))


def model_arrays(agent: Agent[Any]) -> dict[str, Any]:
    """Copies of all that is saved of an agent, by name, as `evaluate` takes them."""
    return {name: tensor.numpy().copy() for name, tensor in agent.model.state_dict().items()}


@contextmanager
def _process(pipe: Connection) -> Iterator[ExitStack]:
    """An end in silence, with a word about its reason."""
    try:
        with ExitStack() as stack:
            stack.enter_context(one_thread())
            yield stack
        pipe.send(Done())
    except (EOFError, ConnectionError):
        pass  # the main process has gone, or wants no more
    except BaseException as error:
        with suppress(OSError):
            pipe.send(failure(error))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, because there is a process for every core."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


def failure(error: BaseException) -> Failure:
    """What a process says of the exception that ends it."""
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
    agent = make_agent(config.agent, Setting(*spaces, network, num_envs, seed, config.device, config.compute))
    assert isinstance(agent, A3C)
    if len(agent.network.cnns):
        keep_freed_memory()
    return agent
