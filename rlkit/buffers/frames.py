"""Stacked frames in a replay buffer: each frame once, though it is part of several observations."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.buffers.observations import Allocate, Kind, Leaf, Places, Steps, Storage, copied, on_host, saved, with_room
from rlkit.spaces import Array

SMALLEST_FRAME, MOST_FRAMES = 8, 16


def is_stack(space: spaces.Space[Any]) -> bool:
    """Whether a leaf of the observations looks like frames of bytes stacked along its first axis, not like colours."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (3, 4):
        return False
    frames, *frame = space.shape
    colours = len(frame) == 2 and frames == 3
    return 2 <= frames <= MOST_FRAMES and not colours and min(frame[:2]) >= SMALLEST_FRAME


def storage_of(space: spaces.Space[Any]) -> tuple[type[Leaf], Kind]:
    """How a leaf of the observations is stored."""
    return FrameStacks if is_stack(space) else Leaf, Kind.of(space)


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
        self._moved_on = np.zeros(0, np.bool_)
        """Of each observation aside, whether it has the frames of the row that led to it, but for one."""
        self._age = np.zeros(rows, np.uint8)
        """How many rows back an observation is whose older frames are stored; `depth - 1` stands for any more, too."""
        self._places = Places(rows)
        self._older: Storage = np.zeros((0, depth - 1, *frame), kind.dtype)
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
        return int(super().nbytes + self._age.nbytes + self._places.of.nbytes + self._older.nbytes)

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

    def set_aside(self, place: int, row: int, value: Array) -> None:
        super().set_aside(place, row, value)
        self._moved_on = with_room(self._moved_on, place, np.zeros)
        self._moved_on[place] = np.array_equal(on_host(self.read(np.array([row])))[0, 1:], value[:-1])

    def read(self, rows: Array) -> Any:
        ages = self._age.take(rows).astype(np.int64)
        stacks = self._ring.take(self._rows_of(rows, ages), 0)
        self._complete(stacks, rows, ages)
        return stacks

    def read_steps(self, steps: Steps) -> tuple[Any, Any]:
        # An observation and the one after it have all frames but one in common, so both are views of the same frames.
        together = self._together(steps)
        return super().read_steps(steps) if together is None else (together[:, :-1], together[:, 1:])

    def _together(self, steps: Steps) -> Any:
        """Each observation's frames and then the next one's newest: (count, depth + 1, *frame).

        None where a next observation is something else; what a terminated episode led to may be anything.
        """
        rows, following = steps.rows, steps.following
        anew = self._age.take(following) == 0
        anew[steps.aside] = ~self._moved_on[steps.places]
        if (anew & ~steps.terminated).any() or (following != (rows + self._stride) % self._rows).any():
            return None
        ages = self._age.take(rows).astype(np.int64)
        frames = self._ring.take(np.column_stack([self._rows_of(rows, ages), following]), 0)
        self._complete(frames[:, :-1], rows, ages)
        if len(steps.aside):
            frames[steps.aside, -1] = self._aside.take(steps.places, 0)[:, -1]
        return frames

    def _rows_of(self, rows: Array, ages: Array) -> Array:
        """The rows in the ring of each stack's frames: (count, depth)."""
        back = np.arange(self._depth - 1, -1, -1)  # of each frame, oldest first: how many rows before
        found: Array = (rows[:, None] - np.minimum(back, ages[:, None]) * self._stride) % self._rows
        return found

    def _complete(self, stacks: Any, rows: Array, ages: Array) -> None:
        """Puts in the frames of those whose ring does not go back far enough."""
        young = np.flatnonzero(ages < self._depth - 1)
        if len(young):
            older = self._older.take(self._places.of[(rows[young] - ages[young] * self._stride) % self._rows], 0)
            # Frame i is what was frame i + age when the rest was stored.
            then = np.arange(self._depth - 1) + ages[young, None]
            which, i = np.nonzero(then < self._depth - 1)
            stacks[young[which], i] = older[which, then[which, i]]

    def state_dict(self) -> dict[str, Any]:
        arrays = {
            "age": self._age.copy(),
            "moved_on": self._moved_on.copy(),
            "older": saved(self._older, self._allocate),
        }
        return {**super().state_dict(), **arrays, "places": self._places.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._age, self._moved_on = state["age"].copy(), state["moved_on"].copy()
        self._older = copied(state["older"], self._allocate)
        self._places.load_state_dict(state["places"])
        self._newest = None  # the next observation is stored in full
