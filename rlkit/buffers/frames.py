"""Stacked frames in a replay buffer: each frame is stored once, though it is part of several observations."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.buffers.observations import ObservationStorage, Overflow
from rlkit.buffers.storage import Allocate, on_host
from rlkit.spaces import Array

MIN_FRAME_SIZE = 8
"""Rows and columns that a frame has at least; smaller ones are stored like any other array."""
MAX_FRAMES = 16
"""Frames that a stack has at most; a longer first axis is taken for something else."""


def is_stack(space: spaces.Space[Any]) -> bool:
    """True if a leaf of the observations looks like frames of bytes stacked along its first axis, not like colours."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (3, 4):
        return False
    frames, *frame = space.shape
    colours = len(frame) == 2 and frames == 3
    return 2 <= frames <= MAX_FRAMES and not colours and min(frame[:2]) >= MIN_FRAME_SIZE


def storage_class(space: spaces.Space[Any]) -> type[ObservationStorage]:
    """The class that stores a leaf of the observations."""
    return FrameStackStorage if is_stack(space) else ObservationStorage


class FrameStackStorage(ObservationStorage):
    """One leaf of stacked frames: the ring holds each observation's newest frame, the rows before it the older ones.

    Where an observation is not the one before it moved on by a frame, as at the start of an episode, its older frames
    are stored in overflow storage. So whatever is written is read again; only the memory that it takes depends on
    what it is.
    """

    index_bytes: ClassVar[int] = ObservationStorage.index_bytes + 4 + 2

    def __init__(self, rows: int, num_envs: int, row: np.dtype[Any], allocate: Allocate) -> None:
        super().__init__(rows, num_envs, row, allocate)
        self._depth, *frame = row.shape
        self._older = Overflow(rows, np.dtype((row.base, (self._depth - 1, *frame))), allocate)
        self._age = np.zeros(rows, np.uint8)
        """Steps since the row whose older frames are stored; from depth - 1 on they are not needed, and not counted."""
        self._final_moved_on = np.zeros(rows, np.bool_)
        """True for a row whose final observation is the row's own observation, moved on by a frame."""
        self._last_write: tuple[int, Array] | None = None
        """The first row of the last batch that was written, and the batch."""

    @staticmethod
    def ring_type(row: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype((row.base, row.shape[1:]))

    @staticmethod
    def earlier_slots(row: np.dtype[Any]) -> int:
        depth: int = row.shape[0]
        return depth - 1

    @property
    def nbytes(self) -> int:
        return int(super().nbytes + self._older.nbytes + self._age.nbytes + self._final_moved_on.nbytes)

    def write(self, rows: slice, batch: Array) -> None:
        super().write(rows, batch[:, -1])
        self._older.release(rows)
        before = (rows.start - self._num_envs) % self._rows
        moved_on = np.zeros(len(batch), np.bool_)
        if self._last_write is not None and self._last_write[0] == before:
            moved_on = (batch[:, :-1] == self._last_write[1][:, 1:]).reshape(len(batch), -1).all(1)
        ages = self._age[before : before + len(batch)]
        self._age[rows] = np.where(moved_on, np.minimum(ages + 1, self._depth - 1), 0)
        for env in np.flatnonzero(~moved_on):
            self._older.put(rows.start + int(env), batch[env, :-1])
        self._last_write = rows.start, batch

    def write_final(self, row: int, obs: Array) -> None:
        super().write_final(row, obs)
        self._final_moved_on[row] = np.array_equal(on_host(self.read(np.array([row])))[0, 1:], obs[:-1])

    def read(self, rows: Array) -> Any:
        ages = self._age.take(rows).astype(np.int64)
        stacks = self._ring.take(self._frame_rows(rows, ages), 0)
        self._fill_in_older(stacks, rows, ages)
        return stacks

    def read_pairs(self, first: Array, last: Array, terminated: Array) -> tuple[Any, Any]:
        # An observation and the next one have all frames but one in common, so both are views of the same frames.
        frames = self._joined_frames(first, last, terminated)
        return super().read_pairs(first, last, terminated) if frames is None else (frames[:, :-1], frames[:, 1:])

    def _joined_frames(self, first: Array, last: Array, terminated: Array) -> Any:
        """The frames of each observation and the newest one of the next: (count, depth + 1, *frame).

        None if a next observation is not its observation moved on by a frame; a terminated episode's may be anything.
        """
        next_rows = (last + self._num_envs) % self._rows
        ended, slots = self._final.find(last)
        unrelated = self._age.take(next_rows) == 0
        unrelated[ended] = ~self._final_moved_on[last[ended]]
        if (unrelated & ~terminated).any() or (first != last).any():
            return None
        ages = self._age.take(first).astype(np.int64)
        frames = self._ring.take(np.column_stack([self._frame_rows(first, ages), next_rows]), 0)
        self._fill_in_older(frames[:, :-1], first, ages)
        if len(ended):
            frames[ended, -1] = self._final.take(slots)[:, -1]
        return frames

    def _frame_rows(self, rows: Array, ages: Array) -> Array:
        """The rows of the ring that hold the frames of each stack: (count, depth)."""
        steps_back = np.arange(self._depth - 1, -1, -1)  # of each frame, the oldest first
        found: Array = (rows[:, None] - np.minimum(steps_back, ages[:, None]) * self._num_envs) % self._rows
        return found

    def _fill_in_older(self, stacks: Any, rows: Array, ages: Array) -> None:
        """Writes the frames that are in overflow storage into the stacks that have some there."""
        young = np.flatnonzero(ages < self._depth - 1)
        if len(young):
            origins = (rows[young] - ages[young] * self._num_envs) % self._rows
            older = self._older.take(self._older.slots[origins])
            # Frame i of a stack was frame i + age when the older frames were stored.
            then = np.arange(self._depth - 1) + ages[young, None]
            which, i = np.nonzero(then < self._depth - 1)
            stacks[young[which], i] = older[which, then[which, i]]

    def state_dict(self) -> dict[str, Any]:
        arrays = {"age": self._age.copy(), "final_moved_on": self._final_moved_on.copy()}
        return {**super().state_dict(), **arrays, "older": self._older.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._age, self._final_moved_on = state["age"].copy(), state["final_moved_on"].copy()
        self._older.load_state_dict(state["older"])
        self._last_write = None  # the next observation is stored in full
