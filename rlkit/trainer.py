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
from rlkit.maths.schedules import Every
from rlkit.runs.loggers import Logger
from rlkit.runs.progress import Progress
from rlkit.runs.run_folder import RunFolder
from rlkit.system import ranks


class Trainer:
    """One training run: `train` is the loop, the rest are its steps."""

    def __init__(
        self,
        config: TrainConfig,
        agent: Agent,
        buffer: Any,  # as the agent made it
        collector: Collector | Any,  # or whatever counts `timesteps`
        folder: RunFolder,
        loggers: Sequence[Logger],
        progress: Progress,
        evaluate: Callable[[int], Evaluation],  # of so many episodes
    ) -> None:
        self.config, self.agent, self.buffer, self.collector = config, agent, buffer, collector
        self.folder, self.loggers, self.progress, self._evaluate = folder, loggers, progress, evaluate
        total = config.total_timesteps
        self._log_due = Every(config.log_interval, total // 200)
        self._evaluation_due = Every(config.eval_interval, total // 10)
        self._checkpoint_due = Every(config.checkpoint_interval, total // 10)
        self.timesteps = self.episodes = 0
        self.best = -math.inf
        self.started = time.perf_counter()
        self._since_log = np.zeros(3)  # episodes, the sum of their returns, and that of their lengths
        self._unlogged: dict[str, float] = {}
        self._logged_at = (0, self.started)

    def train(self) -> None:
        """The loop: collect, update, log, evaluate, save."""
        while self.spent < 1:
            episodes, metrics = self.learn()
            self.log(episodes, metrics)
            if self._evaluation_due(self.timesteps):
                self.evaluate()
            if self._checkpoint_due(self.timesteps):
                self.save("last")

    def learn(self) -> tuple[list[Episode], dict[str, float]]:
        """Collects and updates once: the episodes that ended, and the update's metrics."""
        episodes = self.collector.collect(self.agent, self.buffer, self.agent.steps_per_update)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # `log` reports what diverges
            metrics = self.agent.update(self.buffer, self.spent)
        self.timesteps = ranks.steps(self.collector.timesteps)
        return episodes, metrics

    @property
    def spent(self) -> float:
        """The share of the budget that is spent: of the timesteps, or of the episodes where that is more."""
        timesteps = self.timesteps / self.config.total_timesteps
        return max(timesteps, self.episodes / (self.config.total_episodes or math.inf))

    def log(self, episodes: list[Episode], metrics: dict[str, float]) -> None:
        """Shows progress, and writes a row of metrics when one is due."""
        if diverged := [key for key, value in metrics.items() if not math.isfinite(value)]:
            raise RlkitError(
                f"training diverged after {self.timesteps} timesteps: {diverged[0]} is "
                f"{metrics[diverged[0]]}; a smaller agent.learning_rate may help"
            )
        self._unlogged |= metrics  # an update may have taken no gradient step
        self.episodes += len(episodes)
        if episodes:
            self._since_log += (len(episodes), sum(e.episode_return for e in episodes), sum(e.length for e in episodes))
        timesteps, now, metrics = self.timesteps, time.perf_counter(), {}
        if due := self._log_due(timesteps) or self.spent >= 1:
            own = self._since_log[0]
            self._since_log, metrics = ranks.combined(self._since_log, dict(self._unlogged))
            self.episodes += int(self._since_log[0] - own)
        if (due or episodes) and self._since_log[0]:
            count, returns, lengths = self._since_log.tolist()
            metrics |= {"rollout/episode_return": returns / count, "rollout/episode_length": lengths / count}
        self.progress.update(timesteps, metrics)
        if due:
            before, then = self._logged_at
            metrics["time/steps_per_second"] = (timesteps - before) / (now - then)
            metrics["time/total_episodes"] = self.episodes
            self._write(metrics)
            self._since_log, self._unlogged, self._logged_at = np.zeros(3), {}, (timesteps, now)

    def evaluate(self) -> None:
        """Evaluates on separate environments."""
        self.record(self._evaluate(self.config.eval_episodes))

    def record(self, evaluation: Evaluation, more: Mapping[str, float] = {}) -> None:
        """Writes a row about an evaluation, with `more` in it, and saves the agent if it is the best so far."""
        self._write(
            {
                "eval/return_mean": evaluation.return_mean,
                "eval/return_std": evaluation.return_std,
                "eval/episode_length": evaluation.length_mean,
                **more,
            }
        )
        if evaluation.return_mean >= self.best:  # of equals the later one, which has seen more
            self.best = evaluation.return_mean
            self.save("best")

    def save(self, which: str) -> None:
        """Writes checkpoints/last or checkpoints/best."""
        durable = self.spent >= 1 or time.perf_counter() > self.started + 30  # short runs do not wait for the disk
        metadata = {"timesteps": str(self.timesteps)}
        checkpoint.save(self.agent, self.folder.checkpoint(which), metadata=metadata, durable=durable)

    def facts(self) -> dict[str, Any]:
        """What summary.json says besides what it says of every run."""
        return {}

    def _write(self, metrics: Mapping[str, float]) -> None:
        for logger in self.loggers:
            logger.log(metrics, self.timesteps)
