"""Replay buffers beside a list: whatever was added, and however, what is drawn is what the list says."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.buffers.device import Placement
from rlkit.buffers.frames import FrameStackStorage
from rlkit.buffers.prioritized import PrioritizedReplayBuffer
from rlkit.buffers.replay import ReplayBuffer
from rlkit.buffers.transition import Transition
from rlkit.spaces import Array, Obs

GAMMA = 0.5
STACK = 4
LEAVES: list[spaces.Space[Any]] = [
    spaces.Box(0, np.inf, (), np.float32),
    spaces.Box(0, 255, (STACK, 8, 8), np.uint8),
]
ENDS = {"": (False, False), "terminated": (True, False), "truncated": (False, True), "both": (True, True)}
GOES_ON = ""


class Seen(NamedTuple):
    """A transition as it was. Observations are numbers, and no two are the same."""

    obs: int
    reward: float
    reached: int
    terminated: bool
    ended: bool


class Drawn(NamedTuple):
    """What a batch has to say of a transition."""

    total: float
    discount: float
    terminated: bool
    reached: int | None
    """None where the episode terminated: there is no next value."""


@dataclass
class World:
    """Environments that end as they are told, the buffer that their steps go to, and a list of the same."""

    buffer: ReplayBuffer
    num_envs: int
    same_step: bool
    stacks: list[Array] = field(default_factory=list)
    """By number: the frames of the observation."""
    seen: list[list[Seen | None]] = field(default_factory=list)
    """By vector step and environment; None where an environment only reset itself."""

    def start(self) -> None:
        """Every environment anew, as a new collector begins."""
        if self.seen:  # what was open is cut off
            self.seen[-1] = [None if one is None else one._replace(ended=True) for one in self.seen[-1]]
        self.now = [self._observe(None) for _ in range(self.num_envs)]
        self.obs = self._batch(self.now)
        self.resetting = [False] * self.num_envs

    def step(self, ends: list[str]) -> None:
        """One vector step, after which each environment's episode ends, or goes on."""
        flags = [ENDS[GOES_ON if reset else end] for end, reset in zip(ends, self.resetting, strict=True)]
        reached = [self._observe(None if reset else n) for n, reset in zip(self.now, self.resetting, strict=True)]
        over = [any(pair) for pair in flags]
        fresh = [self._observe(None) if done and self.same_step else n for done, n in zip(over, reached, strict=True)]
        next_obs = self._batch(fresh)
        rewards = np.array([0 if reset else n for n, reset in zip(reached, self.resetting, strict=True)], np.float64)
        self.buffer.add(
            Transition(
                obs=self.obs,
                action=np.zeros(self.num_envs, np.int64),
                reward=rewards,
                terminated=np.array([terminated for terminated, _ in flags]),
                truncated=np.array([truncated for _, truncated in flags]),
                next_obs=next_obs,
                final_obs={
                    env: tuple(leaf[0] for leaf in self._batch([reached[env]]))
                    for env in range(self.num_envs)
                    if over[env] and self.same_step
                },
                valid=~np.array(self.resetting),
                action_mask=None,
            )
        )
        self.seen.append(
            [
                None if reset else Seen(n, reward, after, terminated, terminated or truncated)
                for n, reward, after, (terminated, truncated), reset in zip(
                    self.now, rewards, reached, flags, self.resetting, strict=True
                )
            ]
        )
        self.now, self.obs = fresh, next_obs
        self.resetting = [done and not self.same_step for done in over]

    def known(self, capacity: int, n_step: int) -> dict[int, Drawn]:
        """By observation: what can be drawn, found by walking along the list."""
        found = {}
        for first in range(max(0, len(self.seen) - capacity), len(self.seen)):
            for env, one in enumerate(self.seen[first]):
                if one is None:
                    continue
                total, steps, last = 0.0, 0, one
                for later in self.seen[first : first + n_step]:
                    assert later[env] is not None
                    last = later[env]  # type: ignore[assignment]
                    total += GAMMA**steps * last.reward
                    steps += 1
                    if last.ended:
                        break
                reached = None if last.terminated else last.reached
                found[one.obs] = Drawn(total, GAMMA**steps, last.terminated, reached)
        return found

    def _observe(self, before: int | None) -> int:
        """A new number, whose frames move on from those of the one before; of a new episode, from nothing."""
        older = np.zeros((STACK, 8, 8), np.uint8) if before is None else self.stacks[before]
        frame = np.full((1, 8, 8), len(self.stacks) % 256, np.uint8)
        self.stacks.append(np.concatenate([older[1:], frame]))
        return len(self.stacks) - 1

    def _batch(self, numbers: list[int]) -> Obs:
        return np.array(numbers, np.float32), np.stack([self.stacks[n] for n in numbers])


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([ReplayBuffer, PrioritizedReplayBuffer]),
    num_envs=st.integers(1, 3),
    capacity=st.integers(2, 12),
    n_step=st.integers(1, 4),
    same_step=st.booleans(),
    steps=st.integers(1, 60),
    going_on=st.sampled_from([0.2, 0.6, 0.9]),
    where=st.sampled_from(["memory", "disk", "device"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_drawn_is_what_a_list_says(
    kind: type[ReplayBuffer],
    num_envs: int,
    capacity: int,
    n_step: int,
    same_step: bool,
    steps: int,
    going_on: float,
    where: str,
    seed: int,
) -> None:
    sizes = (capacity * num_envs, num_envs, spaces.Tuple(LEAVES), spaces.Discrete(2))
    folder = Path(tempfile.gettempdir()) if where == "disk" else None
    images = Placement(torch.device("cpu"), (1,)) if where == "device" else None
    buffer = kind(*sizes, n_step=n_step, gamma=GAMMA, folder=folder, images=images)
    assert isinstance(buffer._obs[1], FrameStackStorage)
    world, rng = World(buffer, num_envs, same_step), np.random.default_rng(seed)
    for step in range(steps):
        if step == 0 or rng.random() < 0.05:
            world.start()
        world.step([GOES_ON if rng.random() < going_on else str(rng.choice(list(ENDS))) for _ in range(num_envs)])
        check(buffer.sample(4, rng), world, capacity, n_step)
    known = world.known(capacity, n_step)
    batch = buffer.sample(60 * len(known), rng)
    check(batch, world, capacity, n_step)
    assert {int(n) for n in batch.obs[0]} == set(known)
    assert buffer.added == sum(one is not None for step in world.seen for one in step)


def check(batch: Any, world: World, capacity: int, n_step: int) -> None:
    """Compares every row of a batch with the list."""
    known = world.known(capacity, n_step)
    for i, number in enumerate(int(n) for n in batch.obs[0]):
        np.testing.assert_array_equal(batch.obs[1][i], world.stacks[number])
        reached = None if batch.terminated[i] else int(batch.next_obs[0][i])
        assert Drawn(batch.reward[i], batch.gamma[i], batch.terminated[i], reached) == known[number]
        if reached is not None:
            np.testing.assert_array_equal(batch.next_obs[1][i], world.stacks[reached])
