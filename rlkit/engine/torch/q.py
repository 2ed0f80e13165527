"""The engine of a Q-network by autograd: the reference, for every network and device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from rlkit.engine.actor_critic import Metrics
from rlkit.engine.descent import Descent, Rate, flatten_parameters
from rlkit.engine.q import QEngine, TDBatch, TorchTDLoss
from rlkit.engine.threads import threads_for
from rlkit.networks.noisy import noise_from
from rlkit.networks.q_network import QNetwork
from rlkit.spaces import Array
from rlkit.system import gpu

CHUNK_SIZE = 1024
"""Rows that torch evaluates at once, so that images fit into memory."""

Objective = Callable[[TDBatch, str], tuple[Tensor, Tensor, Tensor]]
"""(batch, kind of loss) -> the loss, each row's error, and the network's outputs."""
Outputs = Callable[..., tuple[Tensor, ...]]
"""(*features) -> a network's outputs, alone in a tuple."""


class TorchQEngine(QEngine):
    """Gradients by torch's autograd; see `QEngine`. `compiled` and `recorded` are as in `TorchEngine`."""

    def __init__(
        self,
        network: QNetwork,
        target: QNetwork,
        loss: TorchTDLoss,
        descent: Descent[Tensor],
        *,
        compiled: bool = False,
        recorded: bool = False,
    ) -> None:
        self.network, self._target = network, target
        self._target_flat, _ = flatten_parameters(target)
        self._descent = descent
        self._loss = loss
        self._device, self._compiled = descent.flat.device, compiled
        self._objective: Objective = torch.compile(self._plain_objective) if compiled else self._plain_objective
        self._online: Outputs = self._plain_q_values
        self._targets: Outputs = self._plain_targets
        self._recorded_steps: dict[str, gpu.Recorded] | None = None
        if recorded and not network.noisy:  # noise is drawn anew for each call, by NumPy
            fast_online = torch.compile(self._plain_q_values, dynamic=False) if compiled else None
            fast_targets = torch.compile(self._plain_targets, dynamic=False) if compiled else None
            self._online = gpu.Recorded(self._plain_q_values, self._device, fast_online)
            self._targets = gpu.Recorded(self._plain_targets, self._device, fast_targets)
            self._recorded_steps = {}

    def q_values(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._online, features, noise, self.network)

    def target_outputs(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._targets, features, noise, self._target)

    def step(
        self, batch: TDBatch, loss: str, learning_rate: float, noise: Generator | None = None
    ) -> tuple[Array, Metrics]:
        if self._recorded_steps is not None and self._descent.recordable:
            found = self._recorded_step(batch, loss, learning_rate)
        else:
            features = tuple(self._tensor(part) for part in batch.features)
            features = gpu.in_one_layout(features) if self._compiled else features
            tensors = TDBatch(features, *(None if part is None else self._tensor(part) for part in batch[1:]))
            with noise_from(noise, self.network.body):
                found = self._step(self._objective, tensors, loss, learning_rate)
        value, norm, mean, *errors = found.tolist()  # one transfer for all
        return np.array(errors, np.float32), {"value_loss": value, "grad_norm": norm, "q_value": mean}

    def _step(self, objective: Objective, batch: TDBatch, loss: str, learning_rate: Rate) -> Tensor:
        """Takes a gradient step; returns the loss, the gradients' norm, the mean action value, and the errors."""
        value, errors, outputs = objective(batch, loss)
        self._descent.gradients.zero_()
        torch.autograd.backward(value)
        norm = self._descent.step(learning_rate)
        mean = self.network.expected(outputs.detach()).mean()
        return torch.cat([torch.stack([value.detach(), norm, mean]), errors])

    def _recorded_step(self, batch: TDBatch, loss: str, learning_rate: float) -> Tensor:
        assert self._recorded_steps is not None
        if (recorded := self._recorded_steps.get(loss)) is None:

            def step(objective: Objective, rate: Tensor, *parts: Tensor) -> tuple[Tensor]:
                features, rest = parts[: len(batch.features)], parts[len(batch.features) :]
                return (self._step(objective, TDBatch(features, *rest), loss, rate[0]),)

            plain, fast = partial(step, self._plain_objective), partial(step, self._objective)
            recorded = self._recorded_steps[loss] = gpu.Recorded(plain, self._device, fast)
        given = (*batch.features, *(part for part in batch[1:] if part is not None))
        return recorded(np.array([learning_rate], np.float32), *given)[0]

    def _plain_objective(self, batch: TDBatch, loss: str) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.network(batch.features)
        return (*self._loss(outputs, batch, loss), outputs)

    def _plain_q_values(self, *features: Tensor) -> tuple[Tensor]:
        return (self.network.expected(self.network(features)),)

    def _plain_targets(self, *features: Tensor) -> tuple[Tensor]:
        return (self._target(features),)

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
        outputs_of: Outputs,
        features: tuple[Array, ...],
        noise: Generator | None,
        network: QNetwork,
    ) -> Array:
        with torch.no_grad(), noise_from(noise, network.body), threads_for(len(features[0])):
            chunks = [
                outputs_of(*(self._tensor(part[start : start + CHUNK_SIZE]) for part in features))[0].cpu()
                for start in range(0, len(features[0]), CHUNK_SIZE)
            ]
        outputs: Array = torch.cat(chunks).numpy()
        return outputs

    def _tensor(self, array: Array) -> Tensor:
        return gpu.uploaded(array, self._device)
