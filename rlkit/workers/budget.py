"""A number of environment steps that several processes take together: exactly so many, whatever becomes of them."""

from __future__ import annotations

import time

from rlkit.system.processes import KernelLock, SharedArray

POLL = 0.005  # seconds between looks, while the rest of the budget is in other hands


class Budget:
    """Every worker claims the steps of a rollout before it takes them, and finishes them once they are learned from.

    What a dead worker had claimed and not finished, `give_back` leaves to the others. Each number is written by its
    worker alone; the lock is only around comparing their sum with the total, and no process can die holding it.
    """

    def __init__(self, total: int, num_workers: int) -> None:
        self.total = total
        self._claimed = SharedArray([num_workers], "int64")
        self._done = SharedArray([num_workers], "int64")
        self._stopped = SharedArray([1], "bool")
        self._lock = KernelLock()

    @property
    def done(self) -> int:
        """Steps that have been learned from."""
        return int(self._done.array.sum())

    @property
    def progress(self) -> float:
        """The share of the steps that have been learned from."""
        return self.done / self.total

    @property
    def over(self) -> bool:
        """Whether it is time to stop."""
        return bool(self._stopped.array[0]) or self.done >= self.total

    def claim(self, worker: int, most: int) -> int:
        """Takes up to `most` of what is left; waits while others may still give some back; 0: it is time to stop."""
        while not self.over:
            if steps := self.take(worker, most):
                return steps
            time.sleep(POLL)
        return 0

    def take(self, worker: int, most: int) -> int:
        """The same without waiting; 0: others have the rest in their hands, or it is time to stop."""
        if self.over:
            return 0
        with self._lock:
            claimed = self._claimed.array
            steps = min(most, self.total - int(claimed.sum()))
            claimed[worker] += steps
        return steps

    def finish(self, worker: int) -> None:
        """What the worker has claimed is done."""
        self._done.array[worker] = self._claimed.array[worker]

    def give_back(self, worker: int) -> None:
        """What the worker has claimed and not finished is anyone's again; only for one that is dead."""
        self._claimed.array[worker] = self._done.array[worker]

    def stop(self) -> None:
        """Makes every further claim 0."""
        self._stopped.array[0] = True
