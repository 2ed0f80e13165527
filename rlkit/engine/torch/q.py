"""The engine of a Q-network by autograd: the reference, for every network and device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from rlkit.engine.actor_critic import Metrics
from rlkit.engine.descent import Descent, flatten_parameters
from rlkit.engine.q import QEngine, TDBatch, TorchTDLoss
from rlkit.engine.threads import threads_for
from rlkit.networks.noisy import noise_from
from rlkit.networks.q_network import QNetwork
from rlkit.spaces import Array
from rlkit.system import gpu

CHUNK_SIZE = 1024
"""Rows that torch evaluates at once, so that images fit into memory."""


class TorchQEngine(QEngine):
    """Gradients by torch's autograd; see `QEngine`. `compiled` is as in `TorchEngine`."""

    def __init__(
        self,
        network: QNetwork,
        target: QNetwork,
        loss: TorchTDLoss,
        descent: Descent[Tensor],
        *,
        compiled: bool = False,
    ) -> None:
        self.network, self._target = network, target
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
        return self._evaluate(self._online, features, noise, self.network)

    def target_outputs(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._targets, features, noise, self._target)

    def step(
        self, batch: TDBatch, loss: str, learning_rate: float, noise: Generator | None = None
    ) -> tuple[Array, Metrics]:
        features = tuple(self._tensor(part) for part in batch.features)
        features = gpu.in_one_layout(features) if self._compiled else features
        tensors = TDBatch(features, *(None if part is None else self._tensor(part) for part in batch[1:]))
        with noise_from(noise, self.network.body):
            value, errors, outputs = self._objective(tensors, loss)
        self._descent.gradients.zero_()
        torch.autograd.backward(value)
        norm = self._descent.step(learning_rate)
        mean = self.network.expected(outputs.detach()).mean()
        # One transfer for all.
        value_, norm_, mean_, *errors_ = torch.cat([torch.stack([value, norm, mean]), errors]).tolist()
        return np.array(errors_, np.float32), {"value_loss": value_, "grad_norm": norm_, "q_value": mean_}

    def _plain_objective(self, batch: TDBatch, loss: str) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.network(batch.features)
        return (*self._loss(outputs, batch, loss), outputs)

    def _plain_q_values(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.network.expected(self.network(features))

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
                outputs_of(tuple(self._tensor(part[start : start + CHUNK_SIZE]) for part in features)).cpu()
                for start in range(0, len(features[0]), CHUNK_SIZE)
            ]
        outputs: Array = torch.cat(chunks).numpy()
        return outputs

    def _tensor(self, array: Array) -> Tensor:
        return gpu.uploaded(array, self._device)
