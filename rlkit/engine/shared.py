"""Parameters in shared memory, which many processes update without a lock: Hogwild (Recht et al. 2011), for A3C."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from rlkit.engine.descent import Optimizer, Rate
from rlkit.spaces import Array
from rlkit.system.processes import SharedArray


class SharedParameters:
    """Parameters, optimiser moments and running statistics in memory that the workers of a run share.

    Each worker updates parameters and moments as if they were its own. Without a lock, an update of an element is lost
    now and then, which Hogwild tolerates. Counts and statistics must not lose anything, so each worker has a row of its
    own there that only it writes, and readers combine the rows.
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
        """Number of updates that each worker has made: (num_workers,) int64."""
        return self._updates.array

    @property
    def statistics(self) -> list[Array]:
        """Each of the model's running statistics, with a row for every worker: (num_workers, row) float64."""
        return [rows.array for rows in self._statistics]


class SharedMemory:
    """A worker's sink: an optimiser that updates the parameters and moments in shared memory, without a lock."""

    def __init__(self, optimizer: Optimizer[Any], shared: SharedParameters, worker: int) -> None:
        optimizer.attach(shared.parameters, shared.moments)
        self._optimizer, self._worker = optimizer, worker
        self._parameters, self._updates = shared.parameters, shared.updates

    def follow(self, gradients: Tensor, learning_rate: Rate) -> None:
        self._optimizer.steps = int(self._updates.sum())
        self._optimizer.step(learning_rate)
        self._updates[self._worker] += 1

    def pull(self) -> Array:
        return self._parameters
