"""A3C's trainer: the usual loop, while worker processes collect and update, and one more process evaluates."""

from __future__ import annotations

import functools
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import torch

from rlkit.agents.a3c import A3C
from rlkit.collector import Episode
from rlkit.config import TrainConfig
from rlkit.envs import EnvFactory, find_spec
from rlkit.episodes import Evaluation
from rlkit.errors import RlkitError
from rlkit.system.processes import num_cores
from rlkit.trainer import Output, Source, Trainer
from rlkit.workers.budget import Budget
from rlkit.workers.supervisor import Member, Ready, Supervisor
from rlkit.workers.worker import Report, Snapshot, Task, model_arrays

MAX_WORKERS_PER_CORE = 2
"""Workers per core above which a run begins with a warning."""
STOP_TIMEOUT = 0.5
"""Seconds that processes have at the end for closing their environments, before they are killed."""


class LostParameters(RlkitError):
    """Raised when the workers' parameters are gone; the agent still has a copy from a moment before."""


class WorkerPool(Source, Protocol):
    """The source of experience in A3C's runs: workers that collect and learn on their own.

    It begins with the agent's parameters; `A3C.pull` brings the learned ones back to the agent.
    """

    num_workers: int
    """Number of workers, known after `start`."""
    evaluator: Evaluator
    """The process that evaluates models while the workers go on."""
    supervisor: Supervisor
    """Restarts processes that die, counts the restarts, and keeps notes for the user."""

    def start(self) -> None:
        """Starts all processes, and waits until every worker is ready to begin."""

    def begin(self) -> None:
        """Lets all workers begin at once."""

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        """Waits a moment for reports; returns the episodes that ended and the metrics of the last update.

        Once the budget is spent, it waits for the last report of every worker.
        """

    def finish_evaluations(self) -> None:
        """Waits until all queued models have been evaluated."""

    def stop(self) -> list[Episode]:
        """Ends all processes, workers after their current rollout if there is time; returns the last episodes."""

    def __str__(self) -> str:
        """The line that describes the workers when a run starts."""


class Evaluator:
    """The process that evaluates models while training goes on, and the queue of models that wait for it."""

    def __init__(self, config: TrainConfig, factory: EnvFactory) -> None:
        self.member: Member | None = None
        """The process, for a supervisor to start; None if no evaluations were asked for."""
        if config.eval_interval != 0:
            packed = Task(config, replace(factory, training=False), find_spec(factory.id)).packed()
            self.member = Member("the evaluator", "rlkit.workers.worker:evaluate", lambda starts: (packed,))
        self.evaluations: list[tuple[Snapshot, Evaluation]] = []
        """Finished evaluations with the models that were played; the trainer takes them out."""
        self._queue: deque[Snapshot] = deque()
        self._busy_start: int | None = None
        """Start number of the process that was sent the queue's first model, or None. A process that died and was
        started again has another number, and is therefore sent the model again."""

    @property
    def members(self) -> list[Member]:
        """The process as a list for a supervisor; empty if no evaluations were asked for."""
        return [self.member] if self.member else []

    @property
    def busy(self) -> bool:
        """True while models wait for their evaluation."""
        return bool(self._queue)

    def evaluate(self, timesteps: int, model: dict[str, Any]) -> None:
        """Queues a copy of the model, as it was after so many timesteps."""
        self._queue.append(Snapshot(timesteps, model))

    def take(self, evaluation: Evaluation) -> None:
        """Takes the evaluation of the queue's first model, as the process has sent it."""
        self.evaluations.append((self._queue.popleft(), evaluation))
        self._busy_start = None

    def go_on(self) -> None:
        """Sends the process its next model, unless it still has one."""
        member = self.member
        if member is not None and member.ready and self._queue and self._busy_start != member.starts:
            self._busy_start = member.starts
            send(member, self._queue[0].model)


class Workers:
    """A pool of workers that are processes of this machine and share memory; see `WorkerPool`.

    Raises RlkitError for a vectorization that A3C does not have, and if a process cannot be started.
    """

    def __init__(self, config: TrainConfig, agent: A3C, factory: EnvFactory) -> None:
        check_vectorization(config)
        wanted = config.agent.num_workers
        self.num_workers: int = num_cores() if wanted == "auto" else wanted
        self.timesteps = 0
        self._num_envs = config.num_envs
        self._budget = Budget(budget_of(config), self.num_workers)
        self._shared = agent.make_shared(self.num_workers)
        packed = Task(config, factory, find_spec(factory.id)).packed()
        self._workers = [
            Member(f"worker {index}", "rlkit.workers.worker:work", functools.partial(self._arguments, packed, index))
            for index in range(self.num_workers)
        ]
        self.evaluator = Evaluator(config, factory)
        self._reports = Reports()
        self.supervisor = Supervisor([*self._workers, *self.evaluator.members], config.agent.max_restarts)
        self.supervisor.notes += crowding_warning(self.num_workers)

    def __str__(self) -> str:
        return f"workers: {self.num_workers}, on {num_cores()} cores; environments of each: {self._num_envs}"

    def start(self) -> None:
        self.supervisor.start()
        while not all(worker.ready for worker in self._workers):
            self._receive(0.1)

    def begin(self) -> None:
        for worker in self._workers:
            send(worker, "begin")

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        self._receive(0.1)
        self.timesteps = self._budget.done
        while self.timesteps == self._budget.total and not all(worker.done for worker in self._workers):
            self._receive(0.1)
        return self._reports.taken()

    def finish_evaluations(self) -> None:
        while self.evaluator.busy:
            self._receive(0.1)

    def stop(self) -> list[Episode]:
        self._budget.stop()
        self.begin()  # a worker that still waits for the word must find out that it is time to stop
        for member in self.evaluator.members:
            send(member, None)
        for _, message in self.supervisor.stop(STOP_TIMEOUT):
            self._take(message)
        self.timesteps = self._budget.done
        return self._reports.taken()[0]

    def _arguments(self, packed: bytes, index: int, starts: int) -> tuple[Any, ...]:
        """Returns the arguments for starting a worker, after giving back the steps that its predecessor had claimed."""
        self._budget.give_back(index)
        return packed, index, starts, self._shared, self._budget

    def _receive(self, timeout: float) -> None:
        """Receives the processes' messages, waiting up to `timeout`, and sends the evaluator its next model."""
        for member, message in self.supervisor.wait(timeout):
            self._take(message)
            if isinstance(message, Ready) and member is not self.evaluator.member and member.starts > 1:
                send(member, "begin")  # a restarted worker joins the others, which have begun long ago
        self.evaluator.go_on()

    def _take(self, message: Any) -> None:
        if isinstance(message, Report):
            self._reports.add(message)
        elif isinstance(message, Evaluation):
            self.evaluator.take(message)


class Reports:
    """Collects the workers' reports until the trainer takes them."""

    def __init__(self) -> None:
        self._episodes: list[Episode] = []
        self._metrics: dict[str, float] = {}

    def add(self, report: Report) -> None:
        """Adds a worker's report."""
        self._episodes += report.episodes
        self._metrics = report.metrics or self._metrics

    def taken(self) -> tuple[list[Episode], dict[str, float]]:
        """Returns the episodes since the last call, and the metrics of the last update."""
        reported = self._episodes, dict(self._metrics)
        self._episodes = []
        return reported


def check_vectorization(config: TrainConfig) -> None:
    """Raises RlkitError for a vectorization that A3C's workers do not have."""
    if config.vectorization not in ("auto", "sync"):
        raise RlkitError(
            f"vectorization={config.vectorization}: agent=a3c steps the environments in its workers, as sync does; "
            "expected sync or auto"
        )


def budget_of(config: TrainConfig) -> int:
    """Returns the timesteps of a run: `total_timesteps`, rounded up to whole vector steps of a worker."""
    return -(-config.total_timesteps // config.num_envs) * config.num_envs


def crowding_warning(num_workers: int) -> list[str]:
    """Returns a warning if this machine has far fewer cores than workers, else an empty list."""
    if num_workers <= MAX_WORKERS_PER_CORE * num_cores():
        return []
    return [
        f"warning: agent.num_workers={num_workers} on {num_cores()} cores: unless the environments mostly wait, more "
        "workers than cores are no faster in sum, and learn from older parameters"
    ]


class AsynchronousTrainer(Trainer):
    """The trainer's loop while workers train: it waits for their reports, logs, saves, and has models evaluated."""

    agent: A3C

    def __init__(self, config: TrainConfig, agent: A3C, workers: WorkerPool, output: Output) -> None:
        super().__init__(config, agent, workers, output)
        self.workers = workers

    def facts(self) -> dict[str, Any]:
        return {"num_workers": self.workers.num_workers, "restarts": self.workers.supervisor.restarts}

    def train(self) -> None:
        self.workers.begin()
        try:
            super().train()
            self.workers.finish_evaluations()
            self._record_evaluations()
        except LostParameters:
            self.save("last")
            raise
        finally:
            self.episodes += len(self.workers.stop())
            self.timesteps = self.workers.timesteps

    def advance(self) -> tuple[list[Episode], dict[str, float]]:
        reported = super().advance()
        self._record_evaluations()
        while self.workers.supervisor.notes:
            self.progress.say(self.workers.supervisor.notes.pop(0))
        return reported

    def evaluate(self) -> None:
        self.agent.pull()
        self.workers.evaluator.evaluate(self.workers.timesteps, model_arrays(self.agent))

    def save(self, which: str) -> None:
        if which == "last":
            self.agent.pull()
        super().save(which)

    def _record_evaluations(self) -> None:
        """Logs finished evaluations; for each, the agent is given the parameters that were evaluated.

        A best one is saved from the agent, and workers have moved the parameters on since.
        """
        while self.workers.evaluator.evaluations:
            snapshot, evaluation = self.workers.evaluator.evaluations.pop(0)
            self.agent.model.load_state_dict({name: torch.from_numpy(part) for name, part in snapshot.model.items()})
            if remark := evaluation.remark():
                self.progress.say(remark)
            self.record(evaluation, {"eval/timesteps": snapshot.timesteps})


def send(member: Member, message: Any) -> None:
    """Sends a message to a process, if it is still alive."""
    if member.process is not None:
        with suppress(OSError):  # the supervisor notices a process that has died
            member.pipe.send(message)
