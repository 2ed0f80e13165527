"""The trainer: collects, updates, logs, evaluates and saves until the budget is spent.

Each of these is done elsewhere; here is their order. `rlkit.run` builds the parts and calls it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np

from rlkit import checkpoint
from rlkit.agents.base import Agent
from rlkit.buffers.transition import BufferT, LastingBuffer
from rlkit.collector import Collector, Episode
from rlkit.config import EVALUATIONS_PER_RUN, TrainConfig
from rlkit.episodes import Evaluation
from rlkit.errors import RlkitError
from rlkit.runs.loggers import Logger
from rlkit.runs.progress import Progress
from rlkit.runs.run_folder import RunFolder
from rlkit.system.resources import Clock
from rlkit.system.subnormals import flushed

CHECKPOINTS_PER_RUN = 10
ROWS_PER_RUN = 200
"""Rows of metrics.csv in a run, unless `log_interval` says otherwise."""
SECONDS_WITHOUT_DISK = 30
"""Checkpoints before this time are not waited for until the disk has them: a short run would do nothing else."""


class Every:
    """Becomes due once in every `interval` timesteps: never if that is 0, and every `default` ones if it is None."""

    def __init__(self, interval: int | None, default: int) -> None:
        self.interval = max(1, default) if interval is None else interval
        self._next = self.interval

    def __call__(self, timesteps: int) -> bool:
        if self.interval == 0 or timesteps < self._next:
            return False
        self._next = (timesteps // self.interval + 1) * self.interval
        return True

    def go_on(self, timesteps: int) -> None:
        """Becomes due at the next multiple of the interval, in a run that is resumed after so many timesteps."""
        if self.interval:
            self._next = (timesteps // self.interval + 1) * self.interval


class Source(Protocol):
    """The part of a run that collects and learns: this process, or workers that report to it."""

    timesteps: int
    """Environment steps so far, over all environments and processes."""

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        """Collects and learns a little, `spent` being the share of the budget that is spent.

        Returns the episodes that ended, and the metrics of the last update.
        """


class CollectAndUpdate(Generic[BufferT]):
    """The source of a run in one process, or in one of torchrun's: collects a few steps, then updates once."""

    def __init__(self, agent: Agent[BufferT], buffer: BufferT, collector: Collector) -> None:
        self.agent, self.buffer, self.collector = agent, buffer, collector
        self.timesteps = 0

    def advance(self, spent: float) -> tuple[list[Episode], dict[str, float]]:
        episodes = self.collector.collect(self.agent, self.buffer, self.agent.steps_per_update)
        # The trainer reports what diverges.
        with flushed(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            metrics = self.agent.update(self.buffer, spent)
        self.timesteps = self.agent.ranks.steps(self.collector.timesteps)
        return episodes, metrics

    def state_dict(self) -> dict[str, Any] | None:
        """All state between two calls of `advance`; None where an agent or a buffer of the user's own has none."""
        agent: dict[str, Any] | None = self.agent.state_dict()
        if agent is None or not isinstance(self.buffer, LastingBuffer):
            return None
        return {
            "agent": agent,
            "buffer": self.buffer.state_dict(),
            "collector": self.collector.state_dict(),
            "timesteps": self.timesteps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Restores a state that `state_dict` returned; returns sentences about what could not be restored."""
        assert isinstance(self.buffer, LastingBuffer)
        self.agent.load_state_dict(state["agent"])
        self.buffer.load_state_dict(state["buffer"])
        failed = self.collector.load_state_dict(state["collector"])
        self.timesteps = state["timesteps"]
        remarks = dict.fromkeys(remark for env in state["collector"]["envs"] for remark in env.get("remarks", ()))
        if not failed:
            return list(remarks)
        self.buffer.cut_off(list(failed))
        reasons = "; ".join(dict.fromkeys(failed.values()))
        return [
            *remarks,
            f"the open episodes of {len(failed)} of {self.collector.num_envs} environments begin anew: {reasons}",
        ]


class Evaluate(Protocol):
    """Plays episodes with the agent on environments of their own."""

    def __call__(self, episodes: int) -> Evaluation | None:
        """Plays so many episodes; returns None where that has to wait for the end of the run."""


class Output(NamedTuple):
    """The places where a run's results go, and the evaluation that judges it."""

    folder: RunFolder
    loggers: Sequence[Logger]
    progress: Progress
    evaluate: Evaluate


class Trainer:
    """One training run: `train` is the loop, the rest are its steps."""

    def __init__(self, config: TrainConfig, agent: Agent[Any], source: Source, output: Output) -> None:
        self.config, self.agent, self.source = config, agent, source
        self.folder, self.loggers, self.progress, self._evaluate = output
        total = config.total_timesteps
        self._log_due = Every(config.log_interval, total // ROWS_PER_RUN)
        self._evaluation_due = Every(config.eval_interval, total // EVALUATIONS_PER_RUN)
        self._checkpoint_due = Every(config.checkpoint_interval, total // CHECKPOINTS_PER_RUN)
        self.timesteps = self.episodes = 0
        self.best = -math.inf
        self.started = time.perf_counter()
        self.clock = Clock()
        """Time of training, without that of evaluations."""
        self._since_log = np.zeros(3)
        """The number of episodes since the last row, the sum of their returns, and the sum of their lengths."""
        self._unlogged: dict[str, float] = {}
        self._logged_at = (0, self.started)
        self._resumable = True
        self.stopping = False
        """True once training is to stop after the update that it is at, with the state of the whole run saved."""
        self.stopped = False
        """True once it has stopped there, and saves."""

    def train(self) -> None:
        """The loop: collect, update, log, evaluate, save. Raises KeyboardInterrupt after it was asked to stop."""
        while self.spent < 1 and not self.stopping:
            episodes, metrics = self.advance()
            self.log(episodes, metrics)
            if self._evaluation_due(self.timesteps):
                self.evaluate()
            if self._checkpoint_due(self.timesteps):
                self.save_all()
        if self.stopping and self.spent < 1:
            self.stopped = True
            self.save_all()
            raise KeyboardInterrupt

    def advance(self) -> tuple[list[Episode], dict[str, float]]:
        """Collects and updates once: the episodes that ended, and the update's metrics."""
        advanced = self.source.advance(self.spent)
        self.timesteps = self.source.timesteps
        return advanced

    @property
    def spent(self) -> float:
        """The share of the budget that is spent: of the timesteps, or of the episodes where that is more."""
        timesteps = self.timesteps / self.config.total_timesteps
        return max(timesteps, self.episodes / (self.config.total_episodes or math.inf))

    def log(self, episodes: list[Episode], metrics: dict[str, float]) -> None:
        """Shows progress, and writes a row of metrics when one is due."""
        self._check_finite(metrics)
        self._unlogged |= metrics  # an update may have taken no gradient step
        self.episodes += len(episodes)
        if episodes:
            self._since_log += (len(episodes), sum(e.episode_return for e in episodes), sum(e.length for e in episodes))
        due = self._log_due(self.timesteps) or self.spent >= 1
        row = self._row_over_all_ranks() if due else {}
        if (due or episodes) and self._since_log[0]:
            count, returns, lengths = self._since_log.tolist()
            row |= {"rollout/episode_return": returns / count, "rollout/episode_length": lengths / count}
        self.progress.update(self.timesteps, row)
        if due:
            timesteps, then = self._logged_at
            now = time.perf_counter()
            row["time/steps_per_second"] = (self.timesteps - timesteps) / (now - then)
            row["time/total_episodes"] = self.episodes
            self._write(row)
            self._since_log, self._unlogged, self._logged_at = np.zeros(3), {}, (self.timesteps, now)

    def _check_finite(self, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            if not math.isfinite(value):
                raise RlkitError(
                    f"training diverged after {self.timesteps} timesteps: {key} is {value}; a smaller "
                    "agent.learning_rate may help, or, where observations or rewards are large numbers, "
                    "network.normalize_obs=true and smaller rewards"
                )

    def _row_over_all_ranks(self) -> dict[str, float]:
        """The metrics since the last row as means over all ranks, whose episodes are counted as well."""
        own = self._since_log[0]
        self._since_log, row = self.agent.ranks.combined(self._since_log, dict(self._unlogged))
        self.episodes += int(self._since_log[0] - own)
        return row

    def evaluate(self) -> None:
        """Evaluates on separate environments."""
        with self.clock.paused():
            if evaluation := self._evaluate(self.config.eval_episodes):
                self.record(evaluation)

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
        """Writes the agent to checkpoints/last or checkpoints/best."""
        durable = self.spent >= 1 or time.perf_counter() > self.started + SECONDS_WITHOUT_DISK
        metadata = {"timesteps": str(self.timesteps)}
        checkpoint.save(self.agent, self.folder.checkpoint(which), metadata=metadata, durable=durable)

    def save_all(self) -> None:
        """Writes checkpoints/last with the state of the whole run, which has to be between two updates."""
        self.save("last")
        if not self._resumable or (state := self.state_dict()) is None:
            return
        durable = self.spent >= 1 or time.perf_counter() > self.started + SECONDS_WITHOUT_DISK
        try:
            checkpoint.save_run(state, self.folder.checkpoint("last"), durable=durable)
        except TypeError as error:  # in the state of an agent of the user's own
            self._resumable = False
            self.progress.say(f"the run cannot be resumed, as its state holds more than plain values: {error}")

    def state_dict(self) -> dict[str, Any] | None:
        """The state of the whole run; None where an agent of the user's own, or workers, cannot tell theirs."""
        source = self.source.state_dict() if isinstance(self.source, CollectAndUpdate) else None
        if source is None:
            return None
        return {
            "source": source,
            "timesteps": self.timesteps,
            "episodes": self.episodes,
            "best": self.best,
            "since_log": self._since_log.copy(),
            "unlogged": dict(self._unlogged),
            "seconds": [time.perf_counter() - self.started, self.clock.wall_s, self.clock.cpu_s],
        }

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Takes over the counters and the clocks of a state that `state_dict` returned; its source has the rest."""
        self.timesteps, self.episodes, self.best = state["timesteps"], state["episodes"], state["best"]
        self._since_log, self._unlogged = state["since_log"].copy(), dict(state["unlogged"])
        now = time.perf_counter()
        seconds, wall, cpu = state["seconds"]
        self.started, self._logged_at = now - seconds, (self.timesteps, now)
        self.clock.add(wall, cpu)
        for due in (self._log_due, self._evaluation_due, self._checkpoint_due):
            due.go_on(self.timesteps)

    def facts(self) -> dict[str, Any]:
        """Entries of summary.json beside those of every run."""
        return {}

    def _write(self, metrics: Mapping[str, float]) -> None:
        self.folder.check_kept()
        for logger in self.loggers:
            logger.log({**metrics, "time/training_time_s": self.clock.wall_s}, self.timesteps)
