"""A3C's trainer: the usual loop, of which the workers do the collecting and updating, and a process the evaluating."""

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

CROWDED = 2  # from how many workers per core on a run begins with a warning
TIME_TO_STOP = 0.5  # seconds that processes have for closing their environments


class LostParameters(RlkitError):
    """What the workers share is gone; the agent still has it as it was a moment before."""


class Company(Source, Protocol):
    """The source of A3C's runs: workers that collect and learn.

    It gets the agent's parameters to begin with, and what has been learned comes back by `A3C.pull`.
    """

    num_workers: int
    evaluator: Evaluator
    supervisor: Supervisor
    """Counts restarts, and notes what the user should know."""

    def start(self) -> None:
        """Starts everything, and waits until all workers could begin."""

    def begin(self) -> None:
        """Lets the workers begin, together."""

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        """Waits for reports: the episodes that ended, and the last update's metrics; at the end for the last ones."""

    def finish_evaluations(self) -> None:
        """Waits until all models have been evaluated."""

    def stop(self) -> list[Episode]:
        """Ends everything; workers between two rollouts if they can. Returns the last episodes that ended."""

    def __str__(self) -> str:
        """What a run says of it at its start."""


class Evaluator:
    """The process that plays episodes with what has been learned, while training goes on."""

    def __init__(self, config: TrainConfig, factory: EnvFactory) -> None:
        self.member: Member | None = None
        """For a supervisor; None: no evaluations were asked for."""
        if config.eval_interval != 0:
            packed = Task(config, replace(factory, training=False), find_spec(factory.id)).packed()
            self.member = Member("the evaluator", "rlkit.workers.worker:evaluate", lambda starts: (packed,))
        self.evaluations: list[tuple[Snapshot, Evaluation]] = []
        """What has been evaluated, for the trainer to take out."""
        self._waiting: deque[Snapshot] = deque()
        self._asked: int | None = None
        """Which start of the process has been given the first of these."""

    @property
    def members(self) -> list[Member]:
        """The process, if there is one."""
        return [self.member] if self.member else []

    @property
    def busy(self) -> bool:
        """Whether models wait for their evaluation."""
        return bool(self._waiting)

    def evaluate(self, timesteps: int, model: dict[str, Any]) -> None:
        """Has a copy of the model evaluated, as it was after so many timesteps."""
        self._waiting.append(Snapshot(timesteps, model))

    def take(self, evaluation: Evaluation) -> None:
        """Takes in what the process has said."""
        self.evaluations.append((self._waiting.popleft(), evaluation))
        self._asked = None

    def go_on(self) -> None:
        """Gives the process its next model, if it has none."""
        member = self.member
        if member is not None and member.ready and self._waiting and self._asked != member.starts:
            self._asked = member.starts
            tell(member, self._waiting[0].model)


class Workers:
    """The workers as processes of this machine, which share memory; see `Company`.

    Raises RlkitError for what A3C cannot do, and where a process cannot be started.
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
        self.supervisor.notes += crowded(self.num_workers)

    def __str__(self) -> str:
        return f"workers: {self.num_workers}, on {num_cores()} cores; environments of each: {self._num_envs}"

    def start(self) -> None:
        self.supervisor.start()
        while not all(worker.ready for worker in self._workers):
            self._hear(0.1)

    def begin(self) -> None:
        for worker in self._workers:
            tell(worker, "begin")

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        self._hear(0.1)
        self.timesteps = self._budget.done
        while self.timesteps == self._budget.total and not all(worker.done for worker in self._workers):
            self._hear(0.1)
        return self._reports.taken()

    def finish_evaluations(self) -> None:
        while self.evaluator.busy:
            self._hear(0.1)

    def stop(self) -> list[Episode]:
        self._budget.stop()
        self.begin()  # those that still wait for it
        for member in self.evaluator.members:
            tell(member, None)
        for _, message in self.supervisor.stop(TIME_TO_STOP):
            self._note(message)
        self.timesteps = self._budget.done
        return self._reports.taken()[0]

    def _arguments(self, packed: bytes, index: int, starts: int) -> tuple[Any, ...]:
        """What a worker is started with, once what the one before it had claimed is anyone's again."""
        self._budget.give_back(index)
        return packed, index, starts, self._shared, self._budget

    def _hear(self, timeout: float) -> None:
        """Takes in what has been said, and gives the evaluator its next model."""
        for member, message in self.supervisor.wait(timeout):
            self._note(message)
            if isinstance(message, Ready) and member is not self.evaluator.member and member.starts > 1:
                tell(member, "begin")  # the others have begun long ago
        self.evaluator.go_on()

    def _note(self, message: Any) -> None:
        if isinstance(message, Report):
            self._reports.add(message)
        elif isinstance(message, Evaluation):
            self.evaluator.take(message)


class Reports:
    """What workers have reported since the last time."""

    def __init__(self) -> None:
        self._episodes: list[Episode] = []
        self._metrics: dict[str, float] = {}

    def add(self, report: Report) -> None:
        """Takes in a report."""
        self._episodes += report.episodes
        self._metrics = report.metrics or self._metrics

    def taken(self) -> tuple[list[Episode], dict[str, float]]:
        """The episodes that ended, which are forgotten here, and the metrics of the last update."""
        reported = self._episodes, dict(self._metrics)
        self._episodes = []
        return reported


def check_vectorization(config: TrainConfig) -> None:
    """Raises RlkitError for a vectorization that workers do not have."""
    if config.vectorization not in ("auto", "sync"):
        raise RlkitError(
            f"vectorization={config.vectorization}: agent=a3c steps the environments in its workers, as sync does; "
            "expected sync or auto"
        )


def budget_of(config: TrainConfig) -> int:
    """The steps of a run: total_timesteps in whole vector steps of a worker."""
    return -(-config.total_timesteps // config.num_envs) * config.num_envs


def crowded(num_workers: int) -> list[str]:
    """A warning where this machine has far fewer cores than workers."""
    if num_workers <= CROWDED * num_cores():
        return []
    return [
        f"warning: agent.num_workers={num_workers} on {num_cores()} cores: unless the environments mostly wait, more "
        "workers than cores are no faster in sum, and learn from older parameters"
    ]


class AsynchronousTrainer(Trainer):
    """The trainer's loop over what other processes do: waits for reports, logs, has snapshots evaluated, saves."""

    agent: A3C

    def __init__(self, config: TrainConfig, agent: A3C, workers: Company, output: Output) -> None:
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
        """Logs what has been evaluated meanwhile; the agent is for that moment what it was then."""
        while self.workers.evaluator.evaluations:
            snapshot, evaluation = self.workers.evaluator.evaluations.pop(0)
            self.agent.model.load_state_dict({name: torch.from_numpy(part) for name, part in snapshot.model.items()})
            if remark := evaluation.remark():
                self.progress.say(remark)
            self.record(evaluation, {"eval/timesteps": snapshot.timesteps})


def tell(member: Member, word: Any) -> None:
    """Says something to a process, if it still lives."""
    if member.process is not None:
        with suppress(OSError):  # one that is dead is found out by the supervisor
            member.pipe.send(word)
