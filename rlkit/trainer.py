"""The trainer: collects, updates, logs, evaluates and saves until the budget is spent.

What each of these does is elsewhere; here is their order. `rlkit.run` builds the parts and calls it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlkit import checkpoint
from rlkit.agents.base import Agent
from rlkit.collector import Collector, Episode
from rlkit.config import TrainConfig
from rlkit.episodes import Evaluation
from rlkit.errors import RlkitError
from rlkit.loggers import Logger
from rlkit.progress import Progress
from rlkit.run_folder import RunFolder


class Every:
    """True once in every `interval` timesteps; never for an interval of 0."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._next = interval

    def __call__(self, timesteps: int) -> bool:
        if self.interval == 0 or timesteps < self._next:
            return False
        self._next = (timesteps // self.interval + 1) * self.interval
        return True


class Trainer:
    """One training run: `train` is the loop, the rest are its steps."""

    def __init__(
        self,
        config: TrainConfig,
        agent: Agent,
        buffer: Any,  # as the agent made it
        collector: Collector,
        folder: RunFolder,
        loggers: Sequence[Logger],
        progress: Progress,
        evaluate: Callable[[int], Evaluation],  # of so many episodes
    ) -> None:
        self.config, self.agent, self.buffer, self.collector = config, agent, buffer, collector
        self.folder, self.loggers, self.progress, self._evaluate = folder, loggers, progress, evaluate
        total = config.total_timesteps
        self._log_due = Every(config.log_interval or max(1, total // 200))
        self._evaluation_due = Every(_interval(config.eval_interval, total))
        self._checkpoint_due = Every(_interval(config.checkpoint_interval, total))
        self.episodes = 0
        self.best = -math.inf
        self.started = time.perf_counter()
        self._since_log: list[Episode] = []
        self._unlogged: dict[str, float] = {}
        self._logged_at = (0, self.started)

    def train(self) -> None:
        """The loop: collect, update, log, evaluate, save."""
        while (spent := self.spent) < 1:
            episodes = self.collector.collect(self.agent, self.buffer, self.agent.steps_per_update)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # `log` reports what diverges
                metrics = self.agent.update(self.buffer, spent)
            self.log(episodes, metrics)
            if self._evaluation_due(self.collector.timesteps):
                self.evaluate()
            if self._checkpoint_due(self.collector.timesteps):
                self.save("last")

    @property
    def spent(self) -> float:
        """The share of the budget that is spent: of the timesteps, or of the episodes where that is more."""
        timesteps = self.collector.timesteps / self.config.total_timesteps
        return max(timesteps, self.episodes / (self.config.total_episodes or math.inf))

    def log(self, episodes: list[Episode], metrics: dict[str, float]) -> None:
        """Shows progress, and writes a row of metrics when one is due."""
        if diverged := [key for key, value in metrics.items() if not math.isfinite(value)]:
            raise RlkitError(
                f"training diverged after {self.collector.timesteps} timesteps: {diverged[0]} is "
                f"{metrics[diverged[0]]}; a smaller agent.learning_rate may help"
            )
        metrics = self._unlogged = self._unlogged | metrics  # an update may have taken no gradient step
        self.episodes += len(episodes)
        self._since_log += episodes
        if episodes:
            metrics["rollout/episode_return"] = float(np.mean([e.episode_return for e in self._since_log]))
            metrics["rollout/episode_length"] = float(np.mean([e.length for e in self._since_log]))
        timesteps, now = self.collector.timesteps, time.perf_counter()
        self.progress.update(timesteps, metrics)
        if self._log_due(timesteps) or self.spent >= 1:
            before, then = self._logged_at
            metrics["time/steps_per_second"] = (timesteps - before) / (now - then)
            metrics["time/total_episodes"] = self.episodes
            self._write(metrics)
            self._since_log, self._unlogged, self._logged_at = [], {}, (timesteps, now)

    def evaluate(self) -> None:
        """Evaluates on separate environments, and saves the agent as the best so far if it is."""
        evaluation = self._evaluate(self.config.eval_episodes)
        self._write(
            {
                "eval/return_mean": evaluation.return_mean,
                "eval/return_std": evaluation.return_std,
                "eval/episode_length": evaluation.length_mean,
            }
        )
        if evaluation.return_mean >= self.best:  # of equals the later one, which has seen more
            self.best = evaluation.return_mean
            self.save("best")

    def save(self, which: str) -> None:
        """Writes checkpoints/last or checkpoints/best."""
        timesteps = str(self.collector.timesteps)
        checkpoint.save(self.agent, self.folder.checkpoint(which), metadata={"timesteps": timesteps})

    def _write(self, metrics: Mapping[str, float]) -> None:
        for logger in self.loggers:
            logger.log(metrics, self.collector.timesteps)


def _interval(interval: int | None, total: int) -> int:
    """A tenth of the run where none is given."""
    return max(1, total // 10) if interval is None else interval
