"""The engine of a Q-network and its target network: the protocol, its batches, and minibatches from a replay buffer.

`rlkit.engine.torch.q` implements it by autograd, `rlkit.engine.native.q` by analytic gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from numpy.random import Generator

from rlkit.buffers.batch import ReplayBatch, distinct
from rlkit.buffers.replay import ReplayBuffer
from rlkit.spaces import Array

if TYPE_CHECKING:
    from torch import Tensor

    from rlkit.engine.actor_critic import Metrics
    from rlkit.networks.q_network import QNetwork

BLOCK_SIZE = 8192
"""Transitions that are drawn together at most: of more, the target network's evaluation is not any faster."""
DUPLICATES_SHARE = 1 / 16
"""The share of a buffer's transitions from which on a block has enough duplicates to be worth looking for them."""


class TDBatch(NamedTuple):
    """Transitions with their TD targets for a gradient step, in arrays or in tensors of one row per transition."""

    features: tuple[Any, ...]
    """The network's inputs: see `ObsFeatures`."""
    action: Any
    targets: Any
    """Targets for the values of the actions, (rows,), or for their distributions, (rows, num_atoms)."""
    weights: Any = None
    """Importance weight of each row in the loss; None: all are 1."""


TorchTDLoss: TypeAlias = "Callable[[Tensor, TDBatch, str], tuple[Tensor, Tensor]]"
"""(the network's outputs, batch, kind of loss) -> the loss to differentiate, and each row's error."""
AnalyticTDLoss: TypeAlias = "Callable[[Array, TDBatch, str], tuple[Array, float, Array]]"
"""(action values, batch, kind of loss) -> d loss / d action values, the loss, and the TD errors."""


class QLoss(NamedTuple):
    """A loss on a Q-network's outputs: written with torch, and perhaps with its derivatives as well."""

    torch: TorchTDLoss
    """The reference, which autograd can differentiate for every network."""
    native: AnalyticTDLoss | None = None
    """The derivatives of the same loss, for the C engine; None: it leaves the loss to torch."""


Targets: TypeAlias = Callable[[ReplayBatch, Array, "Array | None"], Array]
"""(batch, target network's outputs for its next observations, online action values for them or None) -> targets."""


class QEngine(Protocol):
    """Evaluates a Q-network and its target network and takes gradient steps; in and out go NumPy arrays.

    Noisy layers draw new noise from the generator `noise` in every call; without it they have none.
    """

    network: QNetwork

    def q_values(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        """The values of all actions, (batch, num_actions). The next call may overwrite them."""

    def target_outputs(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        """The target network's values of all actions, or of their distributions: see `QNetwork.forward`."""

    def step(
        self, batch: TDBatch, loss: str, learning_rate: float, noise: Generator | None = None
    ) -> tuple[Array, Metrics]:
        """Takes one gradient step; returns each row's error before it, as the loss defines errors, and metrics."""

    def update_target(self, tau: float) -> None:
        """Moves the target network's parameters towards the online ones: a share `tau` of the way."""

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and the target network's parameters, the same for every engine."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""

    def minibatches(
        self,
        buffer: ReplayBuffer,
        count: int,
        size: int,
        targets: Targets,
        *,
        double: bool,
        progress: float,
        rng: Generator,
    ) -> Iterator[tuple[TDBatch, Array]]:
        """Draws minibatches of `size` transitions, with their targets and their rows in the buffer.

        There may be fewer than `count`, but at least one. Between them the target network has to stand still, since
        they are drawn as one block and its outputs for all of them are computed together. With `double`, targets
        depend on the online network too, so each minibatch's are computed when it is asked for.
        """
        block = min(count, self._block(buffer, size))
        batch = buffer.sample(block * size, rng, progress)
        split = self.network.features
        features, next_features = split(batch.obs), split(batch.next_obs)
        outputs = self._target_outputs_once(batch.rows, next_features, len(buffer), rng)
        block_targets = None if double else targets(batch, outputs, None)
        for start in range(0, block * size, size):
            rows = slice(start, start + size)
            if block_targets is None:
                online = self.q_values(tuple(part[rows] for part in next_features), noise=rng)
                found = targets(batch.part(rows), outputs[rows], online)
            else:
                found = block_targets[rows]
            weights = None if batch.weights is None else batch.weights[rows]
            yield TDBatch(tuple(part[rows] for part in features), batch.action[rows], found, weights), batch.rows[rows]

    def _block(self, buffer: ReplayBuffer, size: int) -> int:
        """The number of minibatches of `size` transitions that can be drawn together.

        One where draws depend on what was learned before, where each step has its own noise, and for large images.
        """
        apart = buffer.draws_follow_errors or self.network.noisy or len(self.network.cnns) > 0
        return 1 if apart else max(1, BLOCK_SIZE // size)

    def _target_outputs_once(
        self, rows: Array, next_features: tuple[Array, ...], stored: int, noise: Generator
    ) -> Array:
        """The target network's outputs for transitions in `rows` of a buffer; duplicates are computed once."""
        if len(rows) < DUPLICATES_SHARE * stored:
            return self.target_outputs(next_features, noise=noise)
        first, inverse = distinct(rows)
        return self.target_outputs(tuple(part[first] for part in next_features), noise=noise)[inverse]
