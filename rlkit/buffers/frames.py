"""Stacked frames in a replay buffer: each frame once, though it is part of several observations."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.buffers.observations import Allocate, Kind, Leaf, Places, Steps, copied, with_room
from rlkit.spaces import Array

SMALLEST_FRAME, MOST_FRAMES = 8, 16


def is_stack(space: spaces.Space[Any]) -> bool:
    """Whether a leaf of the observations looks like frames of bytes stacked along its first axis, not like colours."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (3, 4):
        return False
    frames, *frame = space.shape
    colours = len(frame) == 2 and frames == 3
    return 2 <= frames <= MOST_FRAMES and not colours and min(frame[:2]) >= SMALLEST_FRAME


class FrameStacks(Leaf):
    """Stores the newest frame of each observation; its older frames are the newest ones of the rows before it.

    Where they are not, as at the start of an episode, they are stored as well. So whatever is written is read again;
    only the memory that it takes depends on what it is.
    """

    def __init__(self, rows: int, stride: int, kind: Kind, allocate: Allocate) -> None:
        depth, *frame = kind.shape
        self._allocate = allocate
        self._rows, self._stride, self._depth = rows, stride, depth
        self._ring = allocate((rows, *frame), kind.dtype)
        self._aside = np.zeros((0, *kind.shape), kind.dtype)
        self._age = np.zeros(rows, np.uint8)
        """How many rows back an observation is whose older frames are stored; `depth - 1` stands for any more, too."""
        self._places = Places(rows)
        self._older = np.zeros((0, depth - 1, *frame), kind.dtype)
        self._newest: tuple[int, Array] | None = None
        """The last batch that was written, and its first row."""

    @classmethod
    def bytes_per_row(cls, kind: Kind) -> int:
        return kind.nbytes // kind.shape[0] + 1 + 4

    @classmethod
    def history(cls, kind: Kind) -> int:
        return kind.shape[0] - 1

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._age.nbytes + self._places.of.nbytes + self._older.nbytes

    def write(self, rows: slice, batch: Array) -> None:
        self._places.release(rows)
        self._ring[rows] = batch[:, -1]
        before = (rows.start - self._stride) % self._rows
        moved_on = np.zeros(len(batch), np.bool_)
        if self._newest is not None and self._newest[0] == before:
            moved_on = (batch[:, :-1] == self._newest[1][:, 1:]).reshape(len(batch), -1).all(1)
        ages = self._age[before : before + len(batch)]
        self._age[rows] = np.where(moved_on, np.minimum(ages + 1, self._depth - 1), 0)
        for i in np.flatnonzero(~moved_on):
            place = self._places.take(rows.start + int(i))
            self._older = with_room(self._older, place, self._allocate)
            self._older[place] = batch[i, :-1]
        self._newest = rows.start, batch

    def read(self, rows: Array) -> Array:
        ages = self._age.take(rows).astype(np.int64)
        stacks: Array = self._ring.take(self._rows_of(rows, ages), 0)
        self._complete(stacks, rows, ages)
        return stacks

    def read_steps(self, steps: Steps) -> tuple[Array, Array]:
        # An observation and the one after it have all frames but one in common, so both are views of the same frames.
        together = self._together(steps)
        return super().read_steps(steps) if together is None else (together[:, :-1], together[:, 1:])

    def _together(self, steps: Steps) -> Array | None:
        """Each observation's frames and then the next one's newest: (count, depth + 1, *frame).

        None where a next observation is something else; what a terminated episode led to may be anything.
        """
        rows, following = steps.rows, steps.following
        anew = self._age.take(following) == 0
        anew[steps.aside] = False
        if (anew & ~steps.terminated).any() or (following != (rows + self._stride) % self._rows).any():
            return None
        ages = self._age.take(rows).astype(np.int64)
        frames: Array = self._ring.take(np.column_stack([self._rows_of(rows, ages), following]), 0)
        self._complete(frames[:, :-1], rows, ages)
        if len(steps.aside):
            last = self._aside.take(steps.places, 0)
            if not np.array_equal(frames[steps.aside, 1:-1], last[:, :-1]):
                return None
            frames[steps.aside, -1] = last[:, -1]
        return frames

    def _rows_of(self, rows: Array, ages: Array) -> Array:
        """The rows in the ring of each stack's frames: (count, depth)."""
        back = np.arange(self._depth - 1, -1, -1)  # of each frame, oldest first: how many rows before
        found: Array = (rows[:, None] - np.minimum(back, ages[:, None]) * self._stride) % self._rows
        return found

    def _complete(self, stacks: Array, rows: Array, ages: Array) -> None:
        """Puts in the frames of those whose ring does not go back far enough."""
        # Frame i is what was frame i + age when the rest was stored.
        young = np.flatnonzero(ages < self._depth - 1)
        if len(young):
            places = self._places.of[(rows[young] - ages[young] * self._stride) % self._rows]
            for i in range(self._depth - 1):
                frames = i + ages[young]
                stored = frames < self._depth - 1
                stacks[young[stored], i] = self._older[places[stored], frames[stored]]

    def state_dict(self) -> dict[str, Any]:
        arrays = {"age": self._age.copy(), "older": copied(self._older, self._allocate)}
        return {**super().state_dict(), **arrays, "places": self._places.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._age, self._older = state["age"].copy(), copied(state["older"], self._allocate)
        self._places.load_state_dict(state["places"])
        self._newest = None  # the next observation is stored in full
