"""A3C's trainer: the usual loop, of which the workers do the collecting and updating, and a process the evaluating."""

from __future__ import annotations

import functools
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from rlkit.agents.a3c import A3C
from rlkit.budget import Budget
from rlkit.collector import Episode
from rlkit.config import TrainConfig
from rlkit.envs import EnvFactory, find_spec
from rlkit.episodes import Evaluation
from rlkit.errors import RlkitError
from rlkit.processes import num_cores
from rlkit.supervisor import Member, Ready, Supervisor
from rlkit.trainer import Trainer
from rlkit.workers import Report, Snapshot, Task, model_arrays

CROWDED = 2  # from how many workers per core on a run begins with a warning
TIME_TO_STOP = 0.5  # seconds that processes have for closing their environments


class Workers:
    """The processes of a run as the trainer sees them: they collect, learn and evaluate.

    `agent` gives them its parameters, and gets them back by `pull`. Raises RlkitError for what A3C cannot do, and
    where a process cannot be started.
    """

    def __init__(self, config: TrainConfig, agent: A3C, factory: EnvFactory) -> None:
        if config.vectorization not in ("auto", "sync"):
            raise RlkitError(
                f"vectorization={config.vectorization}: agent=a3c steps the environments in its workers, as sync does; "
                "expected sync or auto"
            )
        wanted = config.agent.num_workers
        self.num_workers: int = num_cores() if wanted == "auto" else wanted
        self.timesteps = 0
        total = -(-config.total_timesteps // config.num_envs) * config.num_envs  # in whole vector steps
        self._budget = Budget(total, self.num_workers)
        self._shared = agent.make_shared(self.num_workers)
        spec = find_spec(factory.id)
        packed = Task(config, factory, spec).packed()
        self._workers = [
            Member(f"worker {index}", "rlkit.workers:work", functools.partial(self._arguments, packed, index))
            for index in range(self.num_workers)
        ]
        self._evaluator: Member | None = None
        if config.eval_interval != 0:
            packed = Task(config, replace(factory, training=False), spec).packed()
            self._evaluator = Member("the evaluator", "rlkit.workers:evaluate", lambda starts: (packed,))
        self._to_evaluate: deque[Snapshot] = deque()
        self._asked: int | None = None
        """Which start of the evaluator has been given the first of these."""
        self.evaluations: list[tuple[Snapshot, Evaluation]] = []
        """What has been evaluated, for the trainer to take out."""
        self._episodes: list[Episode] = []
        self._metrics: dict[str, float] = {}
        members = [*self._workers, *([self._evaluator] if self._evaluator else [])]
        self.supervisor = Supervisor(members, config.agent.max_restarts)
        if self.num_workers > CROWDED * num_cores():
            self.supervisor.notes.append(
                f"warning: agent.num_workers={self.num_workers} on {num_cores()} cores: unless the environments mostly "
                "wait, more workers than cores are no faster in sum, and learn from older parameters"
            )

    def start(self) -> None:
        """Starts the processes, and waits until all workers could begin."""
        self.supervisor.start()
        while not all(worker.ready for worker in self._workers):
            self._hear(0.1)

    def begin(self) -> None:
        """Lets the workers begin, together."""
        for worker in self._workers:
            _tell(worker, "begin")

    def collect(self) -> tuple[list[Episode], dict[str, float]]:
        """Waits for reports: the episodes that ended, and the last update's metrics; at the end for the last ones."""
        self._hear(0.1)
        self.timesteps = self._budget.done
        while self.timesteps == self._budget.total and not all(worker.done for worker in self._workers):
            self._hear(0.1)
        return self._reported()

    def evaluate(self, model: dict[str, Any]) -> None:
        """Has a copy of the model evaluated; the result will be in `evaluations`."""
        self._to_evaluate.append(Snapshot(self.timesteps, model))
        self._hear(0)

    def finish_evaluations(self) -> None:
        """Waits until all models have been evaluated."""
        while self._to_evaluate:
            self._hear(0.1)

    def stop(self) -> list[Episode]:
        """Ends all processes; the workers' between two rollouts if they can. Returns the last episodes that ended."""
        self._budget.stop()
        self.begin()  # those that still wait for it
        if self._evaluator is not None:
            _tell(self._evaluator, None)
        for _, message in self.supervisor.stop(TIME_TO_STOP):
            self._note(message)
        self.timesteps = self._budget.done
        return self._reported()[0]

    def _arguments(self, packed: bytes, index: int, starts: int) -> tuple[Any, ...]:
        """What a worker is started with, once what the one before it had claimed is anyone's again."""
        self._budget.give_back(index)
        return packed, index, starts, self._shared, self._budget

    def _hear(self, timeout: float) -> None:
        """Takes in what has been said, and gives the evaluator its next model."""
        for member, message in self.supervisor.wait(timeout):
            self._note(message)
            if isinstance(message, Ready) and member is not self._evaluator and member.starts > 1:
                _tell(member, "begin")  # the others have begun long ago
        evaluator = self._evaluator
        if evaluator is not None and evaluator.ready and self._to_evaluate and self._asked != evaluator.starts:
            self._asked = evaluator.starts
            _tell(evaluator, self._to_evaluate[0].model)

    def _note(self, message: Any) -> None:
        if isinstance(message, Report):
            self._episodes += message.episodes
            self._metrics = message.metrics or self._metrics
        elif isinstance(message, Evaluation):
            self.evaluations.append((self._to_evaluate.popleft(), message))
            self._asked = None

    def _reported(self) -> tuple[list[Episode], dict[str, float]]:
        reported = self._episodes, dict(self._metrics)
        self._episodes = []
        return reported


class AsynchronousTrainer(Trainer):
    """The trainer's loop over what other processes do: waits for reports, logs, has snapshots evaluated, saves."""

    agent: A3C

    def __init__(self, config: TrainConfig, agent: A3C, workers: Workers, *parts: Any) -> None:
        super().__init__(config, agent, None, workers, *parts)
        self.workers = workers

    def facts(self) -> dict[str, Any]:
        return {"num_workers": self.workers.num_workers, "restarts": self.workers.supervisor.restarts}

    def train(self) -> None:
        self.workers.begin()
        try:
            super().train()
            self.workers.finish_evaluations()
            self._record_evaluations()
        finally:
            self.episodes += len(self.workers.stop())
            self.timesteps = self.workers.timesteps

    def learn(self) -> tuple[list[Episode], dict[str, float]]:
        reported = self.workers.collect()
        self.timesteps = self.workers.timesteps
        self._record_evaluations()
        while self.workers.supervisor.notes:
            self.progress.say(self.workers.supervisor.notes.pop(0))
        return reported

    def evaluate(self) -> None:
        self.agent.pull()
        self.workers.evaluate(model_arrays(self.agent))

    def save(self, which: str) -> None:
        if which == "last":
            self.agent.pull()
        super().save(which)

    def _record_evaluations(self) -> None:
        """Logs what has been evaluated meanwhile; the agent is for that moment what it was then."""
        while self.workers.evaluations:
            snapshot, evaluation = self.workers.evaluations.pop(0)
            self.agent.model.load_state_dict({name: torch.from_numpy(part) for name, part in snapshot.model.items()})
            self.record(evaluation, {"eval/timesteps": snapshot.timesteps})


def _tell(member: Member, word: Any) -> None:
    if member.process is not None:
        with suppress(OSError):  # one that is dead is found out by the supervisor
            member.pipe.send(word)
