"""The replay buffer: the last transitions, from which an off-policy agent learns again and again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.buffers.batch import ReplayBatch
from rlkit.buffers.disk import check_disk, zeros_on_disk
from rlkit.buffers.frames import storage_of
from rlkit.buffers.memory import check_memory
from rlkit.buffers.observations import Allocate, Kind, Leaf, ObservationRing, on_host
from rlkit.buffers.transition import Transition
from rlkit.maths.returns import n_step_returns
from rlkit.spaces import Array, Obs, count_true, leaf_spaces

if TYPE_CHECKING:
    from rlkit.buffers.device import ImagePlace

ARRAYS = ("_actions", "_rewards", "_terminated", "_truncated", "_valid")
COUNTERS = ("_head", "_length", "added", "episodes")


class ReplayBuffer:
    """A ring of vector steps in storage that is allocated once, with every observation in it only once.

    Arrays are flat: environment e's transition in slot t is row t * num_envs + e. The observation that it led to is
    in the next slot, so the ring has more slots than steps: one is its head, where the next step will go.
    """

    bytes_per_row: ClassVar[int] = 4 + 3 + 4
    """Of a transition, beside its observation and its action: the reward, three flags, and the ring's index."""

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
        images: ImagePlace | None = None,
    ) -> None:
        """Room for `size` transitions, of whose returns the first `n_step` rewards are seen.

        Observations are kept on the disk of `folder`, or in memory where that is None; but for `images` on a device,
        of which batches then have tensors. Raises RlkitError if there is not enough of any.
        """
        self.num_envs, self.n_step = num_envs, n_step
        self._gammas = (gamma ** np.arange(n_step + 1)).astype(np.float32)
        leaves = [storage_of(leaf) for leaf in leaf_spaces(observation_space)]
        on_device = () if images is None else images.leaves
        self._capacity = size // num_envs
        # Behind the oldest step stand those that its observation needs.
        self._slots = self._capacity + 1 + max(storage.history(kind) for storage, kind in leaves)
        self._rows = rows = self._slots * num_envs
        action_dtype = np.min_scalar_type(int(action_space.n) - 1)
        obs_bytes = rows * sum(s.bytes_per_row(kind) for i, (s, kind) in enumerate(leaves) if i not in on_device)
        other_bytes = rows * (action_dtype.itemsize + self.bytes_per_row)
        self._allocate: Allocate = np.zeros
        if folder is None:
            way_out = ", and agent.buffer_dir=. keeps observations on the disk of this folder instead"
            check_memory("agent.buffer_size", size, obs_bytes + other_bytes, way_out)
        else:
            check_memory("agent.buffer_size", size, other_bytes)
            check_disk("agent.buffer_size", size, obs_bytes, folder)
            self._allocate = partial(zeros_on_disk, folder)
        places: list[Allocate] = [self._allocate] * len(leaves)
        if images is not None:
            from rlkit.buffers.device import DeviceArray  # imports torch

            for leaf in on_device:
                places[leaf] = partial(DeviceArray, device=images.device)
        rings = [storage(rows, num_envs, kind, place) for (storage, kind), place in zip(leaves, places, strict=True)]
        self._obs = ObservationRing(rows, num_envs, rings)
        self._actions = np.zeros(rows, action_dtype)
        self._rewards = np.zeros(rows, np.float32)
        self._terminated = np.zeros(rows, np.bool_)
        self._truncated = np.zeros(rows, np.bool_)
        self._valid = np.zeros(rows, np.bool_)
        self._num_leaves = len(leaves)
        self._newest: Obs | None = None
        self._head = self._length = 0
        self.where = ""
        """What the user should know of where observations are kept, if anything."""
        self.added = 0
        """Transitions so far, those included that have been overwritten."""
        self.episodes = 0
        """Episodes that have ended so far."""

    def __len__(self) -> int:
        return self._length * self.num_envs

    @property
    def nbytes(self) -> int:
        """Of all storage."""
        return int(self._obs.nbytes + sum(getattr(self, name).nbytes for name in ARRAYS))

    def add(self, step: Transition) -> None:
        """Stores one vector step, in place of the oldest once the ring is full."""
        if self._newest is None and step.next_action_mask is not None:
            self._store_masks(step.next_action_mask.shape[1:])
        if step.obs is not self._newest:
            self._begin(self._with_mask(step.obs, step.action_mask))
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
        self._obs.write(self._slot(self._head), self._with_mask(step.next_obs, step.next_action_mask))
        for env, last in step.final_obs.items():
            if not step.terminated[env]:  # of a terminated episode, what its last step led to has no value
                self._obs.set_aside(start + env, self._with_mask(last, None))
        self._newest = step.next_obs

    def sample(self, count: int, rng: np.random.Generator) -> ReplayBatch:
        """`count` transitions, drawn uniformly and with replacement; at least one step must be there."""
        rows = self._draw(count, rng)
        while count_true(valid := self._valid.take(rows)) < count:
            resets = np.flatnonzero(~valid)
            rows[resets] = self._draw(len(resets), rng)
        return self._batch(rows)

    def recent_obs(self, steps: int) -> Obs:
        """What the last `steps` vector steps were taken from, as one batch."""
        newest = np.arange(-min(steps, self._length) * self.num_envs, 0)
        rows = (self._head * self.num_envs + newest) % self._rows
        return tuple(self._obs.read(rows[self._valid[rows]])[: self._num_leaves])

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, as copies."""
        arrays = {name: getattr(self, name).copy() for name in ARRAYS}
        return {**arrays, **{name: getattr(self, name) for name in COUNTERS}, "_obs": self._obs.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` of a buffer of the same kind gave."""
        for name in ARRAYS:
            setattr(self, name, state[name].copy())
        for name in COUNTERS:
            setattr(self, name, state[name])
        if len(leaves := state["_obs"]["leaves"]) > len(self._obs.leaves):
            self._store_masks(leaves[-1]["ring"].shape[1:])
        self._obs.load_state_dict(state["_obs"])
        self._newest = ()  # of no environment: the next step is compared with what is stored

    def _draw(self, count: int, rng: np.random.Generator) -> Array:
        oldest = (self._head - self._length) * self.num_envs
        # In a third of the time of `rng.integers`; no number comes up more often by more than one part in 2^53 / size.
        drawn = (rng.random(count) * len(self)).astype(np.int64)
        rows: Array = (oldest + drawn) % self._rows
        return rows

    def _batch(self, rows: Array) -> ReplayBatch:
        rewards, last, gammas = self._rewards.take(rows), rows, self._gammas[1].repeat(len(rows))
        if self.n_step > 1:
            windows = (rows[:, None] + np.arange(self.n_step) * self.num_envs) % self._rows
            # Returns end with their episode, or with the newest step: what followed it is not known yet.
            newest = windows // self.num_envs == (self._head - 1) % self._slots
            ended = self._terminated[windows] | self._truncated[windows] | newest
            rewards, lengths = n_step_returns(self._rewards[windows], ended, self._gammas)
            last, gammas = windows[np.arange(len(rows)), lengths - 1], self._gammas[lengths]
        terminated = self._terminated.take(last)
        obs, next_obs = self._obs.read_steps(rows, last, terminated)
        n = self._num_leaves
        return ReplayBatch(
            obs=tuple(obs[:n]),
            action=self._actions.take(rows, 0).astype(np.int64),
            reward=rewards,
            next_obs=tuple(next_obs[:n]),
            next_action_mask=next_obs[n] if len(next_obs) > n else None,
            terminated=terminated,
            gamma=gammas,
            rows=rows,
        )

    def _begin(self, obs: Obs) -> None:
        """Makes `obs` what the next step is taken from: unless it is what the newest step led to, that was cut off."""
        head = self._slot(self._head)
        if self._length:
            reached = [on_host(leaf) for leaf in self._obs.read(np.arange(head.start, head.stop))]
            if all(np.array_equal(*pair) for pair in zip(reached, obs, strict=True)):
                return
            before = self._slot((self._head - 1) % self._slots)
            for env, row in enumerate(range(before.start, before.stop)):
                if not self._terminated[row] and not self._obs.is_aside(row):
                    self._truncated[row] = True
                    self._obs.set_aside(row, tuple(leaf[env] for leaf in reached))
        self._obs.write(head, obs)

    def _store_masks(self, shape: tuple[int, ...]) -> None:
        """Makes room for action masks, which are kept as one leaf more of the observations."""
        self._obs.leaves.append(Leaf(self._rows, self.num_envs, Kind(shape, np.dtype(np.bool_)), self._allocate))

    def _slot(self, slot: int) -> slice:
        return slice(slot * self.num_envs, (slot + 1) * self.num_envs)

    def _with_mask(self, obs: Obs, action_mask: Array | None) -> Obs:
        """The observation with its action mask, where masks are stored; of an unknown one, all is allowed."""
        if len(self._obs.leaves) == self._num_leaves:
            return obs
        return (*obs, np.array(True) if action_mask is None else action_mask)
