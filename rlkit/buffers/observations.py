"""Where a replay buffer keeps observations: each once, in a ring, and the last ones of cut-off episodes aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces

from rlkit.spaces import Array, Obs

Storage: TypeAlias = Any
"""An array, or a `DeviceArray`, which is written to in the same way, and of which `take` makes tensors."""
Allocate: TypeAlias = Callable[[tuple[int, ...], np.dtype[Any]], Storage]
"""Makes storage of zeros from its shape and type: `np.zeros` in memory, `zeros_on_disk` in a folder."""

NONE = np.zeros(0, np.int64)


class Kind(NamedTuple):
    """What one leaf of an observation is like."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Of one observation."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> Kind:
        """How a leaf is stored: in no more bytes than networks can tell apart."""
        dtype = np.dtype(space.dtype)
        if isinstance(space, spaces.Discrete):
            dtype = np.result_type(np.min_scalar_type(space.start), np.min_scalar_type(space.start + space.n - 1))
        return cls(space.shape or (), np.dtype(np.float32) if dtype == np.float64 else dtype)


class Steps(NamedTuple):
    """Where the observations of a batch of steps are: those they began with, and those they led to."""

    rows: Array
    following: Array
    """The rows of what they led to; not of those in `aside`."""
    aside: Array
    """Which of them, by number, led to what was set aside."""
    places: Array
    """Where that is, of each one in `aside`."""
    terminated: Array
    """Whether what they led to may be anything."""


class Places:
    """Numbers for what rows have outside of the ring; a number is used again when its row is."""

    def __init__(self, rows: int) -> None:
        self.of = np.full(rows, -1, np.int32)
        """The number of each row; -1: it has none."""
        self._count = 0
        self._free: list[int] = []

    def take(self, row: int) -> int:
        """A number for a row that has none."""
        if not self._free:
            self._free.append(self._count)
            self._count += 1
        self.of[row] = place = self._free.pop()
        return place

    def release(self, rows: slice) -> None:
        """Takes back the numbers of these rows."""
        if self._count > len(self._free):
            taken = self.of[rows]
            self._free += taken[taken >= 0].tolist()
            self.of[rows] = -1

    def state_dict(self) -> dict[str, Any]:
        """All of it, as copies."""
        return {"of": self.of.copy(), "count": self._count, "free": list(self._free)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.of, self._count, self._free = state["of"].copy(), state["count"], list(state["free"])


class Leaf:
    """Storage for one leaf of the observations. What is read from a `DeviceArray` is a tensor on that device."""

    def __init__(self, rows: int, stride: int, kind: Kind, allocate: Allocate) -> None:
        self._allocate = allocate
        self._ring = allocate((rows, *kind.shape), kind.dtype)
        self._aside: Storage = np.zeros((0, *kind.shape), kind.dtype)

    @classmethod
    def bytes_per_row(cls, kind: Kind) -> int:
        """What one observation takes in the ring."""
        return kind.nbytes

    @classmethod
    def history(cls, kind: Kind) -> int:
        """How many earlier rows of the same environment an observation needs."""
        return 0

    @property
    def nbytes(self) -> int:
        """Of all storage."""
        return int(self._ring.nbytes + self._aside.nbytes)

    def write(self, rows: slice, batch: Array) -> None:
        """Stores a batch."""
        self._ring[rows] = batch

    def read(self, rows: Array) -> Any:
        """The observations in these rows."""
        return self._ring.take(rows, 0)

    def read_steps(self, steps: Steps) -> tuple[Any, Any]:
        """The observations that steps began with, and those that they led to: arrays that are not to be written to."""
        # At once: of two large arrays, the memory would go back to the system, and come anew, with every batch.
        both = self.read(np.concatenate([steps.rows, steps.following]))
        obs, next_obs = both[: len(steps.rows)], both[len(steps.rows) :]
        if len(steps.aside):
            next_obs[steps.aside] = self._aside.take(steps.places, 0)
        return obs, next_obs

    def set_aside(self, place: int, row: int, value: Array) -> None:
        """Stores what the transition in `row` led to outside of the ring."""
        self._aside = with_room(self._aside, place, self._allocate)
        self._aside[place] = value

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, as copies that are where the storage is: on disk, or, of a device's too, in memory."""
        return {"ring": saved(self._ring, self._allocate), "aside": saved(self._aside, self._allocate)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._ring[:], self._aside = state["ring"], copied(state["aside"], self._allocate)


class ObservationRing:
    """Observations by row; the one that follows in the same environment is `stride` rows on.

    Where that one is of the next episode, an episode's own last observation is set aside, in storage that grows with
    the number of such episodes.
    """

    def __init__(self, rows: int, stride: int, leaves: list[Leaf]) -> None:
        self._rows, self._stride = rows, stride
        self.leaves = leaves
        self._places = Places(rows)

    def write(self, rows: slice, obs: Obs) -> None:
        """Stores a batch of observations in rows that may have been used before."""
        for i, leaf in enumerate(self.leaves):  # zip(strict=True) takes longer than copying a small array
            leaf.write(rows, obs[i])
        self._places.release(rows)

    def set_aside(self, row: int, obs: Obs) -> None:
        """Stores what the transition in `row` led to, in place of what is `stride` rows on."""
        place = self._places.take(row)
        for leaf, value in zip(self.leaves, obs, strict=True):
            leaf.set_aside(place, row, value)

    def is_aside(self, row: int) -> bool:
        """Whether what the transition in `row` led to was set aside."""
        return bool(self._places.of[row] >= 0)

    def read(self, rows: Array) -> list[Any]:
        """The observations in these rows, leaf by leaf."""
        return [leaf.read(rows) for leaf in self.leaves]

    def read_steps(self, rows: Array, last: Array, terminated: Array) -> tuple[list[Any], list[Any]]:
        """The observations in `rows`, and what the transitions in `last` led to, leaf by leaf.

        Where an episode `terminated`, what it led to may be anything. The arrays are not to be written to.
        """
        places = self._places.of.take(last)
        aside = np.flatnonzero(places >= 0) if places.max(initial=-1) >= 0 else NONE
        steps = Steps(rows, (last + self._stride) % self._rows, aside, places[aside], terminated)
        found = [leaf.read_steps(steps) for leaf in self.leaves]
        return [obs for obs, _ in found], [next_obs for _, next_obs in found]

    @property
    def nbytes(self) -> int:
        """Of all storage."""
        return self._places.of.nbytes + sum(leaf.nbytes for leaf in self.leaves)

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, as copies."""
        return {"leaves": [leaf.state_dict() for leaf in self.leaves], "places": self._places.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._places.load_state_dict(state["places"])
        for leaf, stored in zip(self.leaves, state["leaves"], strict=True):
            leaf.load_state_dict(stored)


def with_room(array: Storage, place: int, allocate: Allocate) -> Storage:
    """The array, or a larger copy of it where it has no row `place`; rows are asked for one after the other."""
    if place < len(array):
        return array
    larger = allocate((len(array) + max(16, len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def copied(array: Array, allocate: Allocate) -> Storage:
    """A copy that `allocate` makes the room for."""
    copy = allocate(array.shape, array.dtype)
    copy[:] = array
    return copy


def saved(storage: Storage, allocate: Allocate) -> Array:
    """A copy for `state_dict`, which holds arrays only."""
    in_memory = isinstance(storage, np.ndarray)
    array: Array = copied(storage, allocate if len(storage) else np.zeros) if in_memory else storage.numpy()
    return array


def on_host(found: Any) -> Array:
    """What was read, as an array."""
    array: Array = found if isinstance(found, np.ndarray) else found.cpu().numpy()
    return array
