"""The replay buffer: the last transitions, from which an off-policy agent learns again and again.

It is a ring of vector steps. The observation that a step led to is the one that the next step starts from, so each is
stored once. Here five slots hold the last four of six steps, which are counted from 0:

              newest      head     oldest
               step       slot      step
    slot         0          1         2         3         4
            +---------+---------+---------+---------+---------+
    obs     |   o5    |   o6    |   o2    |   o3    |   o4    |   an array per leaf, with a row for each environment
    action  |   a5    |    -    |   a2    |   a3    |   a4    |   the same of reward, terminated, truncated, valid
            +---------+---------+---------+---------+---------+
                                                 |
                                        +-----------------+
    overflow storage                    | final obs of a3 |       an episode ended with a3: o4 is of the next one
                                        +-----------------+

The head slot is where the next step goes. Its observation is known already, its action is not. Stacked frames need a
few slots more behind the oldest step, since an observation's older frames are in the slots before it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.buffers.batch import ReplayBatch
from rlkit.buffers.frames import storage_class
from rlkit.buffers.observations import ObservationStorage
from rlkit.buffers.storage import Allocate, check_disk, check_memory, on_host, row_type, zeros_on_disk
from rlkit.buffers.transition import Transition
from rlkit.maths.returns import n_step_returns
from rlkit.spaces import Array, Obs, count_true, leaf_spaces

if TYPE_CHECKING:
    from rlkit.buffers.device import Placement

ARRAYS = ("_actions", "_rewards", "_terminated", "_truncated", "_valid")
COUNTERS = ("_head", "_length", "added", "episodes")


class ReplayBuffer:
    """A ring of vector steps in storage that is allocated once; transitions are drawn evenly.

    Arrays are flat: environment e's transition in slot s is row s * num_envs + e.
    """

    bytes_per_row: ClassVar[int] = 4 + 3
    """Bytes of a transition beside its observation and its action: the reward and three flags."""
    draws_follow_errors: ClassVar[bool] = False
    """True if what is drawn depends on the errors of what was drawn before."""

    def __init__(
        self,
        size: int,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete[Any],
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        folder: Path | None = None,
        images: Placement | None = None,
    ) -> None:
        """Makes room for `size` transitions, whose returns have `n_step` rewards.

        Observations are kept on the disk of `folder`, or in memory where that is None, except for `images` on a device,
        of which batches then hold tensors. Raises RlkitError if there is not enough of any.
        """
        self.num_envs, self.n_step = num_envs, n_step
        self._gammas = (gamma ** np.arange(n_step + 1)).astype(np.float32)
        self._capacity = size // num_envs
        leaves = leaf_spaces(observation_space)
        earlier = max(storage_class(leaf).earlier_slots(row_type(leaf)) for leaf in leaves)
        self._slots = self._capacity + 1 + earlier
        self._rows = rows = self._slots * num_envs
        action_type = np.min_scalar_type(int(action_space.n) - 1)
        self._allocate: Allocate = np.zeros if folder is None else partial(zeros_on_disk, folder=folder)
        self._check_room(size, leaves, action_type.itemsize, folder, images)
        self._num_leaves = len(leaves)
        self._obs = self._make_storage(leaves, images)
        """Storage of each leaf of the observations and, behind them, of action masks where there are some."""
        self._actions = np.zeros(rows, action_type)
        self._rewards = np.zeros(rows, np.float32)
        self._terminated, self._truncated, self._valid = np.zeros((3, rows), np.bool_)
        self._newest: Obs | None = None
        """The observation in the head slot, as it was added; None: there is none yet."""
        self._head = self._length = 0
        self.added = 0
        """Transitions so far, those included that have been overwritten."""
        self.episodes = 0
        """Episodes that have ended so far."""

    def __len__(self) -> int:
        return self._length * self.num_envs

    @property
    def nbytes(self) -> int:
        """The bytes of all storage."""
        arrays = [getattr(self, name) for name in ARRAYS]
        return int(sum(storage.nbytes for storage in (*self._obs, *arrays)))

    def add(self, step: Transition) -> None:
        """Stores one vector step, in place of the oldest once the ring is full."""
        mask = step.action_mask if step.next_action_mask is None else step.next_action_mask
        if mask is not None and len(self._obs) == self._num_leaves:
            self._make_room_for_masks(mask.shape[1:])
        if step.obs is not self._newest:
            self._start_from(self._with_mask(step.obs, step.action_mask))
        start = self._head * self.num_envs
        rows = slice(start, start + self.num_envs)
        self._actions[rows] = step.action
        self._rewards[rows] = step.reward
        self._terminated[rows] = step.terminated
        self._truncated[rows] = step.truncated
        self._valid[rows] = step.valid
        self._head = (self._head + 1) % self._slots
        if self._length < self._capacity:
            self._length += 1
        self.added += count_true(step.valid)
        if count_true(step.terminated) or count_true(step.truncated):
            self.episodes += count_true(step.terminated | step.truncated)
        self._write(self._rows_of(self._head), self._with_mask(step.next_obs, step.next_action_mask))
        for env, final in step.final_obs.items():
            if not step.terminated[env]:  # after a termination there is no next value
                self._write_final(start + env, self._with_mask(final, None))
        self._newest = step.next_obs

    def sample(self, count: int, rng: np.random.Generator, progress: float = 1.0) -> ReplayBatch:
        """Draws `count` transitions with replacement; at least one step must be there.

        `progress`, the share of the run that is over, is for buffers that draw in another way by and by.
        """
        rows = self._draw(count, rng)
        while count_true(valid := self._valid.take(rows)) < count:
            resets = np.flatnonzero(~valid)
            rows[resets] = self._draw(len(resets), rng)
        return self._batch(rows)

    def update_priorities(self, rows: Array, errors: Array) -> None:
        """Takes note of the errors of the transitions in these rows; drawing evenly, it has no use for them."""

    def recent_obs(self, steps: int) -> Obs:
        """The observations that the last `steps` vector steps started from, as one batch."""
        newest = np.arange(-min(steps, self._length) * self.num_envs, 0)
        rows = (self._head * self.num_envs + newest) % self._rows
        rows = rows[self._valid[rows]]
        return tuple(storage.read(rows) for storage in self._obs[: self._num_leaves])

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, as copies."""
        arrays = {name: getattr(self, name).copy() for name in ARRAYS}
        counters = {name: getattr(self, name) for name in COUNTERS}
        return {**arrays, **counters, "_obs": [storage.state_dict() for storage in self._obs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` of a buffer of the same kind returned."""
        for name in ARRAYS:
            setattr(self, name, state[name].copy())
        for name in COUNTERS:
            setattr(self, name, state[name])
        if len(state["_obs"]) > len(self._obs):
            self._make_room_for_masks(state["_obs"][-1]["ring"].shape[1:])
        for storage, stored in zip(self._obs, state["_obs"], strict=True):
            storage.load_state_dict(stored)
        self._newest = ()  # of no environment: the next step is compared with what is stored

    def cut_off(self, envs: list[int]) -> None:
        """Does nothing: where the next step starts from another observation, the episodes before it are cut off."""

    def _check_room(
        self,
        size: int,
        leaves: tuple[spaces.Space[Any], ...],
        action_bytes: int,
        folder: Path | None,
        images: Placement | None,
    ) -> None:
        """Raises RlkitError where memory, or the folder's disk, has no room for the buffer."""
        on_device = () if images is None else images.leaves
        kinds = [(storage_class(leaf), row_type(leaf)) for leaf in leaves]
        obs_bytes = sum(kind.ring_type(row).itemsize for i, (kind, row) in enumerate(kinds) if i not in on_device)
        other_bytes = action_bytes + self.bytes_per_row + sum(kind.index_bytes for kind, _ in kinds)
        if folder is None:
            way_out = ", and agent.replay.folder=. keeps observations on the disk of this folder instead"
            check_memory(size, self._rows * (obs_bytes + other_bytes), way_out)
        else:
            check_memory(size, self._rows * other_bytes)
            check_disk(size, self._rows * obs_bytes, folder)

    def _make_storage(
        self, leaves: tuple[spaces.Space[Any], ...], images: Placement | None
    ) -> list[ObservationStorage]:
        """Storage of each leaf: on the device, if it is one of the `images` there, else where the rest is."""
        allocates = [self._allocate] * len(leaves)
        if images is not None:
            from rlkit.buffers.device import DeviceArray  # imports torch

            for leaf in images.leaves:
                allocates[leaf] = partial(DeviceArray, device=images.device)
        return [
            storage_class(leaf)(self._rows, self.num_envs, row_type(leaf), allocate)
            for leaf, allocate in zip(leaves, allocates, strict=True)
        ]

    def _draw(self, count: int, rng: np.random.Generator) -> Array:
        oldest = (self._head - self._length) * self.num_envs
        # In a third of the time of `rng.integers`; no number comes up more often by more than one part in 2^53 / size.
        drawn = (rng.random(count) * len(self)).astype(np.int64)
        rows: Array = (oldest + drawn) % self._rows
        return rows

    def _batch(self, rows: Array) -> ReplayBatch:
        """The transitions that start in these rows, each up to n steps later."""
        rewards, last, gammas = self._rewards.take(rows), rows, self._gammas[1].repeat(len(rows))
        if self.n_step > 1:
            windows = (rows[:, None] + np.arange(self.n_step) * self.num_envs) % self._rows
            # Returns end with their episode, or with the newest step: what followed it is not known yet.
            newest = windows // self.num_envs == (self._head - 1) % self._slots
            ended = self._terminated[windows] | self._truncated[windows] | newest
            rewards, lengths = n_step_returns(self._rewards[windows], ended, self._gammas)
            last, gammas = windows[np.arange(len(rows)), lengths - 1], self._gammas[lengths]
        terminated = self._terminated.take(last)
        pairs = [storage.read_pairs(rows, last, terminated) for storage in self._obs]
        n = self._num_leaves
        return ReplayBatch(
            obs=tuple([obs for obs, _ in pairs[:n]]),
            action=self._actions.take(rows, 0).astype(np.int64),
            reward=rewards,
            next_obs=tuple([next_obs for _, next_obs in pairs[:n]]),
            next_action_mask=pairs[n][1] if len(pairs) > n else None,
            terminated=terminated,
            gamma=gammas,
            rows=rows,
        )

    def _start_from(self, obs: Obs) -> None:
        """Makes `obs` the start of the next step; if the newest step led elsewhere, its episodes are cut off."""
        head = self._rows_of(self._head)
        if self._length:
            reached = [on_host(storage.read(np.arange(head.start, head.stop))) for storage in self._obs]
            if all(np.array_equal(*pair) for pair in zip(reached, obs, strict=True)):
                return
            newest = self._rows_of((self._head - 1) % self._slots)
            for env, row in enumerate(range(newest.start, newest.stop)):
                if not self._terminated[row] and not self._obs[0].has_final(row):
                    self._truncated[row] = True
                    self._write_final(row, tuple(leaf[env] for leaf in reached))
        self._write(head, obs)

    def _make_room_for_masks(self, shape: tuple[int, ...]) -> None:
        """Adds storage for action masks, which are kept like one leaf more of the observations.

        The first one may come at any step; what is stored already allows every action.
        """
        row = np.dtype((np.bool_, shape))
        masks = ObservationStorage(self._rows, self.num_envs, row, self._allocate)
        masks.write(slice(0, self._rows), np.array(True))
        for final_row in self._obs[0].final_rows():
            masks.write_final(final_row, np.array(True))
        self._obs.append(masks)

    def _rows_of(self, slot: int) -> slice:
        return slice(slot * self.num_envs, (slot + 1) * self.num_envs)

    def _with_mask(self, obs: Obs, action_mask: Array | None) -> Obs:
        """The observation with its action mask, where masks are stored; an unknown mask allows all actions."""
        if len(self._obs) == self._num_leaves:
            return obs
        return (*obs, np.array(True) if action_mask is None else action_mask)

    def _write(self, rows: slice, obs: Obs) -> None:
        for i, storage in enumerate(self._obs):  # zip(strict=True) takes longer than copying a small array
            storage.write(rows, obs[i])

    def _write_final(self, row: int, obs: Obs) -> None:
        for storage, leaf in zip(self._obs, obs, strict=True):
            storage.write_final(row, leaf)
