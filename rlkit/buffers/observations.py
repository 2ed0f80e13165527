"""The observations of a replay buffer, one leaf at a time: each once in the ring, final ones in overflow storage."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rlkit.buffers.storage import Allocate, Storage, copied, saved
from rlkit.spaces import Array


class Overflow:
    """Storage for the few rows of the ring that need more than their place in it.

    It grows with the number of such rows. The slots of rows that are overwritten go onto a free list.
    """

    def __init__(self, rows: int, row: np.dtype[Any], allocate: Allocate) -> None:
        self.slots = np.full(rows, -1, np.int32)
        """The overflow slot of each row of the ring; -1: it has none."""
        self._row, self._allocate = row, allocate
        self._values: Storage = np.zeros(0, row)
        self._free: list[int] = []

    @property
    def nbytes(self) -> int:
        """The bytes of all storage."""
        return int(self.slots.nbytes + self._values.nbytes)

    def put(self, row: int, value: Array) -> None:
        """Stores the value of a row that has none."""
        if not self._free:
            self._grow()
        self.slots[row] = slot = self._free.pop()
        self._values[slot] = value

    def release(self, rows: slice) -> None:
        """Forgets the values of these rows."""
        if len(self._free) < len(self._values):
            used = self.slots[rows]
            self._free += used[used >= 0].tolist()
            self.slots[rows] = -1

    def find(self, rows: Array) -> tuple[Array, Array]:
        """The indices of those `rows` that have a value here, and their slots."""
        slots = self.slots.take(rows)
        found = (slots >= 0).nonzero()[0]
        return found, slots[found]

    def take(self, slots: Array) -> Any:
        """The values in these slots: (len(slots), *row.shape)."""
        return self._values.take(slots, 0)

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, as copies."""
        values = saved(self._values, self._allocate)
        return {"slots": self.slots.copy(), "free": list(self._free), "values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.slots, self._free = state["slots"].copy(), list(state["free"])
        self._values = copied(state["values"], self._allocate)

    def _grow(self) -> None:
        size = len(self._values)
        larger = self._allocate(size + max(16, size), self._row)
        larger[:size] = self._values
        self._free += reversed(range(size, len(larger)))
        self._values = larger


class ObservationStorage:
    """One leaf of the observations: a ring of rows, and the final observations of episodes in overflow storage.

    The observation that a step led to is in the row `num_envs` further on, where the next step starts. Only where the
    next step is of another episode is the final observation stored beside the ring. What is read from a `DeviceArray`
    is a tensor on its device.
    """

    index_bytes: ClassVar[int] = 4
    """Bytes in memory for each row, beside its observation."""

    def __init__(self, rows: int, num_envs: int, row: np.dtype[Any], allocate: Allocate) -> None:
        self._rows, self._num_envs, self._allocate = rows, num_envs, allocate
        self._ring = allocate(rows, self.ring_type(row))
        self._final = Overflow(rows, row, allocate)

    @staticmethod
    def ring_type(row: np.dtype[Any]) -> np.dtype[Any]:
        """The type of the part of an observation that the ring holds."""
        return row

    @staticmethod
    def earlier_slots(row: np.dtype[Any]) -> int:
        """The number of earlier slots of the ring that an observation is put together from."""
        return 0

    @property
    def nbytes(self) -> int:
        """The bytes of all storage."""
        return int(self._ring.nbytes + self._final.nbytes)

    def write(self, rows: slice, batch: Array) -> None:
        """Stores a batch of observations, one per environment, in rows that may have been used before."""
        self._ring[rows] = batch
        self._final.release(rows)

    def write_final(self, row: int, obs: Array) -> None:
        """Stores the final observation of the episode that ended with the step in `row`."""
        self._final.put(row, obs)

    def has_final(self, row: int) -> bool:
        """True if an episode ended with the step in `row` and its final observation is stored."""
        return bool(self._final.slots[row] >= 0)

    def final_rows(self) -> list[int]:
        """The rows of the steps with which an episode ended whose final observation is stored."""
        return [int(row) for row in np.flatnonzero(self._final.slots >= 0)]

    def read(self, rows: Array) -> Any:
        """The observations in these rows."""
        return self._ring.take(rows, 0)

    def read_pairs(self, first: Array, last: Array, terminated: Array) -> tuple[Any, Any]:
        """The observations that the steps in rows `first` started from, and those that the steps in `last` led to.

        A terminated episode's final observation has no value, so anything may stand for it. The arrays may share
        memory, and are not to be written to.
        """
        next_rows = (last + self._num_envs) % self._rows
        # Read at once: the memory of two large arrays would go back to the system, and come anew, with every batch.
        both = self.read(np.concatenate([first, next_rows]))
        obs, next_obs = both[: len(first)], both[len(first) :]
        ended, slots = self._final.find(last)
        if len(ended):
            next_obs[ended] = self._final.take(slots)
        return obs, next_obs

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, as copies: on disk if the storage is, else in memory."""
        return {"ring": saved(self._ring, self._allocate), "final": self._final.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self._ring[:] = state["ring"]
        self._final.load_state_dict(state["final"])
