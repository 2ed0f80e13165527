"""One set of parameters for many processes, without a lock: Hogwild (Recht et al. 2011), as A3C uses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlkit.spaces import Array
from rlkit.system.processes import SharedArray


class SharedParameters:
    """What the workers of a run have in common: parameters, the optimiser's moments, and running statistics.

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
        """The optimiser's moments by their names in `rlkit.engine.native.optimizers.MOMENTS`: (size,) float32 each."""
        return {name: moment.array for name, moment in self._moments.items()}

    @property
    def updates(self) -> Array:
        """How often each worker has moved the parameters: (num_workers,) int64."""
        return self._updates.array

    @property
    def statistics(self) -> list[Array]:
        """For each of the model's running statistics, every worker's own as a row: (num_workers, row) float64."""
        return [rows.array for rows in self._statistics]
