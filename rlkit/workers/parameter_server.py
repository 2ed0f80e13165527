"""A parameter server for workers that share no memory: they send gradients, and it steps the optimiser.

The server is A3C's global network (Mnih et al. 2016) as flat arrays: it owns the parameters, the optimiser's moments,
the running statistics and the budget of steps. A worker sends the gradient of its last rollout; the reply brings the
current parameters and the steps of its next rollout. So each rollout costs one message and one reply. This module does
not care how messages travel; `rlkit.workers.ray_actors` sends them by Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rlkit.engine.descent import Rate
from rlkit.engine.make import array_optimizer
from rlkit.spaces import Array
from rlkit.system.subnormals import flushed
from rlkit.workers.budget import Budget

POLL_INTERVAL = 0.05
"""Seconds between a worker's requests for steps, while other workers have claimed the rest of the budget."""


class Push(NamedTuple):
    """A worker's message to the server."""

    statistics: list[Array]
    """This worker's row of each of the model's running statistics: (row,) float64."""
    gradient: Array | None = None
    """The clipped gradient of the rollout that the worker had claimed, (size,) float32; None before its first one."""
    learning_rate: float = 0.0
    """Learning rate of the step along the gradient."""
    most: int = 0
    """Number of steps that the worker asks for; it may get fewer."""


class Reply(NamedTuple):
    """The server's answer to a worker."""

    parameters: Array
    """The current parameters, flat: (size,) float32."""
    statistics: list[Array]
    """All workers' rows of each of the model's running statistics: (num_workers, row) float64."""
    steps: int = 0
    """Number of steps that the worker has claimed now. 0 while none are free; until `over`, some may be given back."""
    progress: float = 0.0
    """Fraction of the budget that has been learned from."""
    over: bool = False
    """True when the worker is to end."""


class News(NamedTuple):
    """The server's answer to the main process: everything since it last asked."""

    done: int
    """Number of steps that have been learned from since the run began."""
    reports: list[Any]
    """The workers' reports since the last call."""
    reply: Reply | None
    """The current parameters, if they were asked for."""


class ParameterServer:
    """Owns the parameters, optimiser, running statistics and budget of a run; serves one call after the other.

    A call names its worker and the worker's start number. A worker that was given up for lost, but lives on behind a
    broken network, still has its old start number, and its calls change nothing.
    """

    def __init__(
        self,
        parameters: Array,
        statistics: Sequence[int],
        num_workers: int,
        total: int,
        *,
        optimizer: str,
        eps: float,
    ) -> None:
        """Makes a server that starts from `parameters`, (size,).

        `statistics` are the row lengths of the model's running statistics, and `total` is the budget in steps.
        """
        self._parameters = np.array(parameters, np.float32)
        self._gradients = np.zeros_like(self._parameters)
        self._optimizer = array_optimizer(optimizer, self._parameters, self._gradients, eps=eps)
        self._statistics = [np.zeros((num_workers, row)) for row in statistics]
        self._budget = Budget(total, num_workers)
        self._starts = [0] * num_workers
        self._reports: list[Any] = []

    def expect(self, worker: int, starts: int) -> None:
        """Accepts a worker from now on only with this start number, and gives back its predecessor's claimed steps."""
        self._budget.give_back(worker)
        self._starts[worker] = starts

    def exchange(self, worker: int, starts: int, push: Push) -> Reply:
        """Takes an optimiser step along the worker's gradient; returns the parameters and the worker's next steps."""
        if starts != self._starts[worker]:
            return self.snapshot()._replace(over=True)
        if push.gradient is not None:  # a worker that has just been restarted has empty statistics: keep what is there
            for rows, row in zip(self._statistics, push.statistics, strict=True):
                rows[worker] = row
            self._gradients[:] = push.gradient
            with flushed():
                self._optimizer.step(push.learning_rate)
            self._budget.finish(worker)
        steps = self._budget.take(worker, push.most) if push.most else 0
        return self.snapshot()._replace(steps=steps)

    def report(self, worker: int, starts: int, report: Any) -> None:
        """Keeps a worker's report for the main process."""
        if starts == self._starts[worker]:
            self._reports.append(report)

    def news(self, with_parameters: bool) -> News:
        """Returns the progress, and the reports since the last call; the parameters only if they are asked for."""
        reports, self._reports = self._reports, []
        return News(self._budget.done, reports, self.snapshot() if with_parameters else None)

    def snapshot(self) -> Reply:
        """Returns the current parameters, statistics and progress."""
        return Reply(self._parameters, self._statistics, 0, self._budget.progress, self._budget.over)

    def stop(self) -> None:
        """Ends the budget early: workers stop after their current rollout."""
        self._budget.stop()


class RemoteParameters:
    """A worker's end of the parameter server: a local copy of the parameters, and the steps that it has claimed.

    It plays two parts. For the agent (`A3C.connect`) it is the sink that gradients go to and parameters come from. For
    the worker's loop it stands in for `rlkit.workers.budget.Budget`; claims travel in the same messages.
    """

    def __init__(
        self, exchange: Callable[[Push], Reply], size: int, statistics: Sequence[int], num_workers: int, worker: int = 0
    ) -> None:
        self.parameters: Array = np.zeros(size, np.float32)
        """The parameters as of the last pull, flat: (size,) float32."""
        self.statistics: list[Array] = [np.zeros((num_workers, row)) for row in statistics]
        """All workers' rows as in `Reply.statistics`; this worker writes its own row of each."""
        self.worker = worker
        self._exchange = exchange
        self._gradient: Array | None = None
        self._learning_rate = 0.0
        self._most = self._steps = 0
        self.progress, self.over = 0.0, False

    def follow(self, gradients: Tensor, learning_rate: Rate) -> None:
        """Keeps a reference to the gradient for the next `pull`; the array must not change until then."""
        self._gradient, self._learning_rate = gradients.numpy(), float(learning_rate)

    def pull(self) -> Array:
        """Sends the gradient, if there is one, and copies the server's parameters, statistics and progress."""
        own = [rows[self.worker] for rows in self.statistics]
        reply = self._exchange(Push(own, self._gradient, self._learning_rate, self._most))
        self._gradient = None
        self.parameters[:] = reply.parameters
        for ours, theirs in zip(self.statistics, reply.statistics, strict=True):
            ours[:] = theirs
        self._steps, self.progress, self.over = reply.steps, reply.progress, reply.over
        return self.parameters

    def claim(self, worker: int, most: int) -> int:
        """Claims steps as `Budget.claim` does; from now on every pull asks for as many in advance."""
        if not self._steps:
            self._most = most
            self.pull()
        while self._steps == 0 and not self.over:
            time.sleep(POLL_INTERVAL)
            self.pull()
        steps, self._steps = self._steps, 0
        return steps

    def finish(self, worker: int) -> None:
        """Does nothing: the server counts claimed steps as done when their gradient arrives."""
