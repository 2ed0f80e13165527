"""One set of parameters for many processes, without a lock: Hogwild (Recht et al. 2011), as A3C uses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from rlkit.engine.descent import Optimizer
from rlkit.spaces import Array
from rlkit.system.processes import SharedArray


class SharedParameters:
    """Parameters, the optimiser's moments and running statistics in memory that the workers of a run share.

    Each worker moves the parameters and the moments as if they were its own, so that now and then an update of one
    element is lost. What must not be lost, counts and statistics, has a row for each worker, which only it writes;
    the sum over the rows is what counts.
    """

    def __init__(self, parameters: Array, moments: Iterable[str], statistics: Sequence[int], num_workers: int) -> None:
        self._parameters = SharedArray(parameters.shape, "float32")
        self.parameters[:] = parameters
        self._moments = {name: SharedArray(parameters.shape, "float32") for name in moments}
        self._updates = SharedArray([num_workers], "int64")
        self._statistics = [SharedArray([num_workers, row], "float64") for row in statistics]

    @property
    def parameters(self) -> Array:
        """All parameters, flat: (size,) float32."""
        return self._parameters.array

    @property
    def moments(self) -> dict[str, Array]:
        """The optimiser's moments by torch's names: (size,) float32 each."""
        return {name: moment.array for name, moment in self._moments.items()}

    @property
    def updates(self) -> Array:
        """How often each worker has moved the parameters: (num_workers,) int64."""
        return self._updates.array

    @property
    def statistics(self) -> list[Array]:
        """For each of the model's running statistics, every worker's own as a row: (num_workers, row) float64."""
        return [rows.array for rows in self._statistics]


class SharedMemory:
    """The sink of a worker: its optimiser moves the parameters and moments that all workers share, without a lock."""

    def __init__(self, optimizer: Optimizer[Any], shared: SharedParameters, worker: int) -> None:
        optimizer.attach(shared.parameters, shared.moments)
        self._optimizer, self._worker = optimizer, worker
        self._parameters, self._updates = shared.parameters, shared.updates

    def follow(self, gradients: Tensor, learning_rate: float) -> None:
        self._optimizer.steps = int(self._updates.sum())
        self._optimizer.step(learning_rate)
        self._updates[self._worker] += 1

    def pull(self) -> Array:
        return self._parameters
