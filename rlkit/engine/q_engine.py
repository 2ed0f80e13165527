"""How a Q-network and its target network are evaluated and improved: by autograd, or in NumPy for plain MLPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from rlkit.engine.actor_critic import Metrics
from rlkit.engine.descent import Descent, flatten_parameters
from rlkit.engine.native.actor_critic import only_torch_activation
from rlkit.engine.native.primitives import Primitives, Tower
from rlkit.engine.threads import threads_for
from rlkit.networks.noisy import noise_from
from rlkit.networks.q_network import QNetwork, action_values
from rlkit.spaces import Array
from rlkit.system import gpu

CHUNK = 1024
"""Rows evaluated at once by torch, so that images fit in memory."""
CACHED_ROWS = 256
"""Rows evaluated at once on the CPU: what comes in between stays in the cache, for layers of 256 units too."""


class TDBatch(NamedTuple):
    """What a gradient step learns from: arrays, or tensors, of one row per transition."""

    features: tuple[Any, ...]
    action: Any
    targets: Any
    """What the values of the actions should have been: (rows,), or their distributions, (rows, num_atoms)."""
    weights: Any = None
    """What each row counts; None: all the same."""


TorchTDLoss = Callable[[Tensor, TDBatch, str], tuple[Tensor, Tensor]]
"""(the network's outputs, batch, kind of loss) -> the loss to differentiate, and each row's error."""
AnalyticTDLoss = Callable[[Primitives, Array, TDBatch, str], tuple[Array, float, Array]]
"""(primitives, action values, batch, kind of loss) -> d loss / d action values, the loss, and the TD errors."""


class QLoss(NamedTuple):
    """A loss on a Q-network's outputs: written with torch, and perhaps with its derivatives as well."""

    torch: TorchTDLoss
    """The reference, which autograd can differentiate for every network."""
    native: AnalyticTDLoss | None = None
    """The derivatives of the same loss, for the fast engines; None: they leave it to torch."""


class QEngine(Protocol):
    """A Q-network and its target network; in and out go NumPy arrays.

    `noise` is what noisy layers draw from, anew in every call; without it they have none, and no others draw.
    """

    def q_values(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        """Of all actions: (batch, num_actions). May be overwritten by the next call."""

    def target_outputs(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        """The same by the target network, or what it says of their distributions: see `QNetwork.forward`."""

    def step(
        self, batch: TDBatch, loss: str, learning_rate: float, noise: Generator | None = None
    ) -> tuple[Array, Metrics]:
        """One gradient step; returns each row's error as it was before: see the losses in `rlkit.engine.losses`."""

    def update_target(self, tau: float) -> None:
        """Moves the target network's parameters towards the online ones: a share `tau` of the way."""

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and the target network's parameters, the same for every engine."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class TorchQEngine:
    """The reference, for every network and device; see `QEngine`. `compiled` is as in `TorchEngine`."""

    def __init__(
        self,
        network: QNetwork,
        target: QNetwork,
        loss: TorchTDLoss,
        descent: Descent[Tensor],
        *,
        compiled: bool = False,
    ) -> None:
        self._network, self._target = network, target
        self._target_flat, _ = flatten_parameters(target)
        self._descent = descent
        self._loss = loss
        self._device, self._compiled = descent.flat.device, compiled
        device = self._device
        self._objective = gpu.compiled(self._plain_objective, device) if compiled else self._plain_objective
        self._online: Callable[[tuple[Tensor, ...]], Tensor] = self._plain_q_values
        self._targets: Callable[[tuple[Tensor, ...]], Tensor] = self._target.forward
        if compiled and gpu.acts_compiled(device):
            self._online = gpu.compiled_by_rows(self._plain_q_values, device)
            self._targets = gpu.compiled_by_rows(self._target.forward, device)

    def q_values(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._online, features, noise, self._network)

    def target_outputs(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._targets, features, noise, self._target)

    def step(
        self, batch: TDBatch, loss: str, learning_rate: float, noise: Generator | None = None
    ) -> tuple[Array, Metrics]:
        features = tuple(self._tensor(part) for part in batch.features)
        features = gpu.in_one_layout(features) if self._compiled else features
        tensors = TDBatch(features, *(None if part is None else self._tensor(part) for part in batch[1:]))
        with noise_from(noise, self._network.body):
            value, errors, outputs = self._objective(tensors, loss)
        self._descent.gradients.zero_()
        torch.autograd.backward(value)
        norm = self._descent.step(learning_rate)
        mean = self._network.expected(outputs.detach()).mean()
        # One transfer for all.
        value_, norm_, mean_, *errors_ = torch.cat([torch.stack([value, norm, mean]), errors]).tolist()
        return np.array(errors_, np.float32), {"value_loss": value_, "grad_norm": norm_, "q_value": mean_}

    def _plain_objective(self, batch: TDBatch, loss: str) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self._network(batch.features)
        return (*self._loss(outputs, batch, loss), outputs)

    def _plain_q_values(self, features: tuple[Tensor, ...]) -> Tensor:
        return self._network.expected(self._network(features))

    def update_target(self, tau: float) -> None:
        with torch.no_grad():
            self._target_flat.lerp_(self._descent.flat, tau)

    def state_dict(self) -> dict[str, Any]:
        return {**self._descent.state_dict(), "target": self._target_flat.cpu().numpy().copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._descent.load_state_dict(state)
        self._target_flat.copy_(torch.as_tensor(state["target"]))

    def _evaluate(
        self,
        outputs_of: Callable[[tuple[Tensor, ...]], Tensor],
        features: tuple[Array, ...],
        noise: Generator | None,
        network: QNetwork,
    ) -> Array:
        with torch.no_grad(), noise_from(noise, network.body), threads_for(len(features[0])):
            chunks = [
                outputs_of(tuple(self._tensor(part[start : start + CHUNK]) for part in features)).cpu()
                for start in range(0, len(features[0]), CHUNK)
            ]
        outputs: Array = torch.cat(chunks).numpy()
        return outputs

    def _tensor(self, array: Array) -> Tensor:
        return gpu.uploaded(array, self._device)


class NumpyQEngine:
    """Analytic gradients on the torch modules' own memory, for MLPs on the CPU; see `QEngine`."""

    def __init__(
        self,
        network: QNetwork,
        target: QNetwork,
        loss: AnalyticTDLoss,
        primitives: Primitives,
        descent: Descent[float],
    ) -> None:
        if reason := q_unsupported(network):
            raise ValueError(reason)
        self._target_flat: Array = flatten_parameters(target)[0].numpy()
        self._descent, self._flat = descent, descent.flat.numpy()
        self._online, self._target = primitives.mlp(network.body), primitives.mlp(target.body)
        self._dueling = network.dueling
        self._primitives, self._loss = primitives, loss

    def q_values(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._online, features[0])

    def target_outputs(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._target, features[0])

    def step(
        self, batch: TDBatch, loss: str, learning_rate: float, noise: Generator | None = None
    ) -> tuple[Array, Metrics]:
        q_values = action_values(self._online.forward(batch.features[0]), self._dueling)
        d_q_values, value, td_errors = self._loss(self._primitives, q_values, batch, loss)
        mean = float(q_values.sum()) / q_values.size
        self._online.backward(_d_outputs(d_q_values, self._dueling))
        norm = self._descent.step(learning_rate)
        return td_errors, {"value_loss": value, "grad_norm": norm, "q_value": mean}

    def update_target(self, tau: float) -> None:
        # Written so that a share of 1 is a copy, without rounding.
        self._target_flat[:] = self._flat - (self._flat - self._target_flat) * np.float32(1 - tau)

    def state_dict(self) -> dict[str, Any]:
        return {**self._descent.state_dict(), "target": self._target_flat.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._descent.load_state_dict(state)
        self._target_flat[:] = state["target"]

    def _evaluate(self, body: Tower, vector: Array) -> Array:
        if len(vector) <= CACHED_ROWS:
            outputs = body.forward(vector)
        else:
            starts = range(0, len(vector), CACHED_ROWS)
            outputs = np.concatenate([body.forward(vector[start : start + CACHED_ROWS]).copy() for start in starts])
        q_values: Array = action_values(outputs, self._dueling)
        return q_values


def dqn_gradient(primitives: Primitives, q_values: Array, batch: TDBatch, loss: str) -> tuple[Array, float, Array]:
    """The derivatives of `rlkit.engine.losses.dqn_loss` by the action values, the loss, and the TD errors."""
    return primitives.td_loss(q_values, batch.action, batch.targets, batch.weights, loss)


def _d_outputs(d_q_values: Array, dueling: str) -> Array:
    """The derivatives by the network's outputs: what `action_values` does, backwards."""
    if dueling == "none":
        return d_q_values
    d_value = d_q_values.sum(1, keepdims=True)
    d_advantages = d_q_values - d_value / d_q_values.shape[1] if dueling == "mean" else d_q_values
    return np.concatenate([d_value, d_advantages], axis=1)


def q_unsupported(network: QNetwork) -> str | None:
    """Why NumPy cannot compute a Q-network, or None where it can."""
    if reason := network.cnns.only_torch or only_torch_activation(network.body):
        return reason
    if network.noisy:
        return "the network is noisy"
    if network.atoms is not None:
        return "the network's values are distributions"
    if next(network.parameters()).is_cuda:
        return "the network is on a GPU"
    return None
