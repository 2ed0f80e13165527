"""One set of parameters for workers that share no memory: a server moves it by the gradients that they send.

The server is A3C's global network (Mnih et al. 2016), as flat numbers: it has the parameters, the optimiser's
statistics, and the budget of steps. A worker sends the gradient of its last rollout, and gets back the parameters as
they are now and the steps of its next rollout: one message and its answer for each rollout. How they travel is not
known here; `rlkit.workers.ray_actors` lets Ray do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rlkit.engine.make import PRIMITIVES
from rlkit.spaces import Array
from rlkit.workers.budget import Budget

POLL = 0.05  # seconds between questions, while the rest of the budget is in other hands


class Push(NamedTuple):
    """What a worker sends."""

    statistics: list[Array]
    """For each of the model's running statistics, what this worker has seen: (row,) float64."""
    gradient: Array | None = None
    """Of the rollout that it claimed, clipped: (size,) float32; None: it has none yet."""
    learning_rate: float = 0.0
    most: int = 0
    """How many steps it would like to take next."""


class Reply(NamedTuple):
    """What it gets back."""

    parameters: Array
    """(size,) float32."""
    statistics: list[Array]
    """Those of all workers: (num_workers, row) float64 each."""
    steps: int = 0
    """How many steps are its own now; 0: none, but others may still give some back unless it is `over`."""
    progress: float = 0.0
    """The share of the budget that has been learned from."""
    over: bool = False
    """Whether it is time to stop."""


class News(NamedTuple):
    """What has happened since the last time, for the main process."""

    done: int
    """Steps that have been learned from, in all."""
    reports: list[Any]
    """What the workers have reported."""
    reply: Reply | None
    """The parameters, if they were asked for."""


class ParameterServer:
    """Parameters, optimiser, running statistics and budget of a run: calls are served one after the other.

    Each worker has a number, and each of its starts another: a word from one that was given up for lost, and lives
    behind a broken network, changes nothing.
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
        compute: str,
    ) -> None:
        """`statistics` are the lengths of their rows; `total` the budget; `compute` as in `rlkit.engine.make`."""
        self._parameters = np.array(parameters, np.float32)
        self._gradients = np.zeros_like(self._parameters)
        kind = PRIMITIVES.get(compute, PRIMITIVES["numpy"]).optimizers[optimizer]
        self._optimizer = kind(self._parameters, self._gradients, eps=eps)
        self._statistics = [np.zeros((num_workers, row)) for row in statistics]
        self._budget = Budget(total, num_workers)
        self._starts = [0] * num_workers
        self._reports: list[Any] = []

    def expect(self, worker: int, starts: int) -> None:
        """From now on a worker is its start of that number; what those before it had claimed is anyone's again."""
        self._budget.give_back(worker)
        self._starts[worker] = starts

    def exchange(self, worker: int, starts: int, push: Push) -> Reply:
        """Moves the parameters along a gradient, and returns them with the steps of the next rollout."""
        if starts != self._starts[worker]:
            return self.snapshot()._replace(over=True)
        if push.gradient is not None:  # one that has just been started knows nothing of what is counted already
            for rows, row in zip(self._statistics, push.statistics, strict=True):
                rows[worker] = row
            self._gradients[:] = push.gradient
            self._optimizer.step(push.learning_rate)
            self._budget.finish(worker)
        steps = self._budget.take(worker, push.most) if push.most else 0
        return self.snapshot()._replace(steps=steps)

    def report(self, worker: int, starts: int, report: Any) -> None:
        """Keeps a worker's report for the main process."""
        if starts == self._starts[worker]:
            self._reports.append(report)

    def news(self, with_parameters: bool) -> News:
        """What has happened since the last call."""
        reports, self._reports = self._reports, []
        return News(self._budget.done, reports, self.snapshot() if with_parameters else None)

    def snapshot(self) -> Reply:
        """Everything as it is now."""
        return Reply(self._parameters, self._statistics, 0, self._budget.progress, self._budget.over)

    def stop(self) -> None:
        """Ends the budget: workers stop after the rollout that they are at."""
        self._budget.stop()


class RemoteParameters:
    """What a worker has of the server: a copy of the parameters, and its share of the budget.

    An agent that is connected to it (`A3C.connect`) pushes gradients and pulls parameters; for the worker's loop it
    is the `rlkit.workers.budget.Budget`, whose claims travel with the pulls.
    """

    def __init__(
        self, exchange: Callable[[Push], Reply], size: int, statistics: Sequence[int], num_workers: int, worker: int = 0
    ) -> None:
        self.parameters: Array = np.zeros(size, np.float32)
        """(size,) float32, as of the last pull."""
        self.statistics: list[Array] = [np.zeros((num_workers, row)) for row in statistics]
        """See `Reply.statistics`; the worker writes its own row of each."""
        self.worker = worker
        self._exchange = exchange
        self._gradient: Array | None = None
        self._learning_rate = 0.0
        self._most = self._steps = 0
        self.progress, self.over = 0.0, False

    def follow(self, gradients: Tensor, learning_rate: float) -> None:
        """Keeps a gradient for the next `pull`; it must stay as it is until then."""
        self._gradient, self._learning_rate = gradients.numpy(), learning_rate

    def pull(self) -> Array:
        """Sends the gradient, if there is one, and takes over everything as it is at the server."""
        own = [rows[self.worker] for rows in self.statistics]
        reply = self._exchange(Push(own, self._gradient, self._learning_rate, self._most))
        self._gradient = None
        self.parameters[:] = reply.parameters
        for ours, theirs in zip(self.statistics, reply.statistics, strict=True):
            ours[:] = theirs
        self._steps, self.progress, self.over = reply.steps, reply.progress, reply.over
        return self.parameters

    def claim(self, worker: int, most: int) -> int:
        """See `Budget.claim`; from now on every pull claims as much."""
        if not self._steps:
            self._most = most
            self.pull()
        while self._steps == 0 and not self.over:
            time.sleep(POLL)
            self.pull()
        steps, self._steps = self._steps, 0
        return steps

    def finish(self, worker: int) -> None:
        """Nothing to do: what was claimed is done once the server has its gradient."""
