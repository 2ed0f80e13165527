"""Prioritized replay (Schaul et al. 2016): transitions are drawn by how wrong their values were when last learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlkit.buffers.batch import ReplayBatch
from rlkit.buffers.replay import ReplayBuffer
from rlkit.buffers.transition import Transition
from rlkit.maths.schedules import annealed
from rlkit.spaces import Array
from rlkit.system.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from rlkit.buffers.device import Placement

PRIORITY_EPS = 1e-6
"""Added to errors, so that a transition without one can still be drawn."""


class SumTree:
    """A binary tree over numbers >= 0 whose nodes are sums, to draw an index in proportion to its number.

    Node 1 is the root, the children of node i are 2i and 2i + 1. All operations take arrays and work level by level.
    """

    def __init__(self, size: int) -> None:
        self.depth = max(1, int(size - 1).bit_length())
        self.first_leaf = 2**self.depth
        self.nodes = np.zeros(2 * self.first_leaf)
        self._children = self.nodes.reshape(-1, 2)
        """The two children of each node, in the memory of `nodes`, so that both are read at once."""

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        return float(self.nodes[1])

    def __getitem__(self, indices: Array) -> Array:
        values: Array = self.nodes[self.first_leaf + indices]
        return values

    def __setitem__(self, indices: Array, values: Any) -> None:
        nodes = self.first_leaf + indices
        self.nodes[nodes] = values
        for _ in range(self.depth):
            nodes = nodes >> 1
            children = self._children.take(nodes, 0)
            self.nodes[nodes] = children[:, 0] + children[:, 1]

    def find(self, sums: Array) -> Array:
        """The index at which the running sum of the numbers passes each of `sums`, which are in [0, total)."""
        nodes, sums = np.ones(len(sums), np.int64), sums.copy()
        for _ in range(self.depth):
            children = self._children.take(nodes, 0)
            left = children[:, 0]
            # Rounding may take a sum past the end: never to where there is nothing.
            right = (sums >= left) & (children[:, 1] > 0)
            sums -= left * right
            nodes = 2 * nodes + right
        found: Array = nodes - self.first_leaf
        return found


class PrioritizedReplayBuffer(ReplayBuffer):
    """Draws transitions in proportion to priority^alpha; new ones have the highest priority so far.

    Importance weights undo the uneven draw in the loss, more and more: their exponent rises from `beta` to 1 over the
    run.
    """

    bytes_per_row: ClassVar[int] = ReplayBuffer.bytes_per_row + 4 * 8
    """Bytes of a transition beside its observation and its action: the tree has at most four numbers for each."""
    draws_follow_errors: ClassVar[bool] = True

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
        alpha: float = 0.6,
        beta: float = 0.4,
        ranks: Ranks = ALONE,
    ) -> None:
        sizes = (size, num_envs, observation_space, action_space)
        super().__init__(*sizes, n_step=n_step, gamma=gamma, folder=folder, images=images)
        self._alpha, self._beta, self._ranks = alpha, beta, ranks
        self._tree = SumTree(self._rows)
        self._highest = 1.0
        self._pending = 0
        """The number of newest vector steps that are not in the tree yet."""

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._tree.nodes.nbytes

    def add(self, step: Transition) -> None:
        super().add(step)
        self._pending = min(self._pending + 1, self._capacity)

    def sample(self, count: int, rng: np.random.Generator, progress: float = 1.0) -> ReplayBatch:
        """Draws `count` transitions, one from each of as many equal parts of the priorities' sum.

        Their importance weights are (stored transitions x probability)^-beta, divided by the largest of the batch;
        beta has its final value, 1, at a `progress` of 1.
        """
        self._insert_pending()
        parts = (np.arange(count) + rng.random(count)) / count
        rows = self._tree.find(parts * self._tree.total)
        probabilities = self._tree[rows] / self._tree.total
        smallest = self._ranks.gathered(probabilities.min()).min()
        beta = annealed("linear", self._beta, 1.0, progress)
        weights = (probabilities / smallest) ** -beta  # the number of transitions cancels out
        return self._batch(rows)._replace(weights=weights.astype(np.float32))

    def update_priorities(self, rows: Array, errors: Array) -> None:
        priorities = np.abs(errors) + PRIORITY_EPS
        self._highest = max(self._highest, float(priorities.max()))
        self._tree[rows] = priorities**self._alpha

    def state_dict(self) -> dict[str, Any]:
        tree = {"tree": self._tree.nodes.copy(), "highest": self._highest, "pending": self._pending}
        return {**super().state_dict(), **tree}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._tree.nodes[:] = state["tree"]
        self._highest, self._pending = state["highest"], state["pending"]

    def _insert_pending(self) -> None:
        """Puts all new steps into the tree together, which takes as many operations as one step would."""
        if self._pending:
            new = np.arange(-self._pending * self.num_envs, 0)
            rows = (self._head * self.num_envs + new) % self._rows
            outside = (self._head * self.num_envs + np.arange(self._rows - self._capacity * self.num_envs)) % self._rows
            self._tree[outside] = 0.0
            self._tree[rows] = np.where(self._valid[rows], self._highest**self._alpha, 0.0)
            self._pending = 0
