"""What tests run in processes of their own: importable, and without torch unless they need it."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any

from rlkit.engine.shared import SharedMemory, SharedParameters
from rlkit.system.processes import KernelLock
from rlkit.workers.budget import Budget


def hold(lock: KernelLock, pipe: Connection) -> None:
    """Takes the lock, says so, and never lets it go."""
    with lock:
        pipe.send("held")
        time.sleep(600)


def claim_until_done(budget: Budget, worker: int) -> None:
    """Claims the budget away, seven at a time."""
    while budget.claim(worker, 7):
        budget.finish(worker)


def claim_once(budget: Budget, worker: int, pipe: Connection) -> None:
    """Claims once, and never finishes."""
    pipe.send(budget.claim(worker, 7))
    time.sleep(600)


def push_ones(shared: SharedParameters, worker: int, updates: int, pipe: Connection) -> None:
    """Takes steps along a gradient of ones, all processes at the same time."""
    descent = sgd_descent(len(shared.parameters))
    descent.sink = SharedMemory(descent.optimizer, shared, worker)
    pipe.send("ready")
    pipe.recv()
    for _ in range(updates):
        descent.gradients[:] = 1
        descent.step(0.5)
    pipe.send("done")


class SGD:
    """Plain gradient descent, with which updates that are lost without a lock can be counted."""

    def __init__(self, parameters: Any, gradients: Any) -> None:
        self.parameters, self.gradients, self.steps = parameters, gradients, 0

    def attach(self, parameters: Any, moments: Any) -> None:
        self.parameters = parameters

    def clip(self, max_norm: float | None) -> float:
        return 0.0

    def step(self, learning_rate: float) -> None:
        """Moves the parameters."""
        self.gradients *= learning_rate
        self.parameters -= self.gradients


def sgd_descent(size: int) -> Any:
    """Steps of plain gradient descent on so many parameters."""
    import torch

    from rlkit.engine.descent import Descent
    from rlkit.system.ranks import ALONE

    parameters = torch.nn.Linear(size, 1, bias=False)
    make: Any = lambda flat, gradients: SGD(flat.numpy(), gradients.numpy())  # noqa: E731
    return Descent(parameters, make, None, ALONE)
