"""A budget of environment steps that several processes spend together: exactly as many, even if some of them die."""

from __future__ import annotations

import time

from rlkit.system.processes import KernelLock, SharedArray

POLL_INTERVAL = 0.005
"""Seconds between looks at the budget, while other workers have claimed the rest of it."""


class Budget:
    """Environment steps to be spent: a worker claims those of a rollout, and finishes them once it learned from them.

    Steps that a worker had claimed but not finished when it died are given back to the others by `give_back`. Each
    worker has counters that only it writes. The lock is held just while a claim compares the counters' sum with the
    total, and the kernel releases it if the process dies then.
    """

    def __init__(self, total: int, num_workers: int) -> None:
        self.total = total
        self._claimed = SharedArray([num_workers], "int64")
        self._done = SharedArray([num_workers], "int64")
        self._stopped = SharedArray([1], "bool")
        self._lock = KernelLock()

    @property
    def done(self) -> int:
        """Number of steps that have been learned from."""
        return int(self._done.array.sum())

    @property
    def progress(self) -> float:
        """Fraction of the budget that has been learned from, from 0 to 1."""
        return self.done / self.total

    @property
    def over(self) -> bool:
        """True once the budget is spent or `stop` was called: workers are to end."""
        return bool(self._stopped.array[0]) or self.done >= self.total

    def claim(self, worker: int, most: int) -> int:
        """Claims up to `most` of the steps that are left; returns how many, and 0 only when it is time to stop.

        While none are free it waits, because another worker may die and its steps be given back.
        """
        while not self.over:
            if steps := self.take(worker, most):
                return steps
            time.sleep(POLL_INTERVAL)
        return 0

    def take(self, worker: int, most: int) -> int:
        """Like `claim`, but returns 0 at once when no steps are free."""
        if self.over:
            return 0
        with self._lock:
            claimed = self._claimed.array
            steps = min(most, self.total - int(claimed.sum()))
            claimed[worker] += steps
        return steps

    def finish(self, worker: int) -> None:
        """Counts all steps that the worker has claimed as learned from."""
        self._done.array[worker] = self._claimed.array[worker]

    def give_back(self, worker: int) -> None:
        """Gives back the steps that a worker had claimed but not finished; only after it has died."""
        self._claimed.array[worker] = self._done.array[worker]

    def stop(self) -> None:
        """Ends the budget early: every further claim returns 0."""
        self._stopped.array[0] = True
