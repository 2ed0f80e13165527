"""The reference engine: autograd, for every network and device; by `compute=compile` its losses are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.actor_critic import Metrics, TorchLoss
from rlkit.engine.descent import Descent
from rlkit.engine.threads import threads_for
from rlkit.networks.actor_critic import ActorCritic
from rlkit.spaces import MASKED_LOGIT, Array
from rlkit.system import gpu

MASKED = float(MASKED_LOGIT)
CHUNK = 1024
"""Rows evaluated at once outside of updates, so that a rollout of images fits in memory."""


class TorchEngine:
    """Gradient steps on a loss written with torch; see `Engine`. `compiled` fuses network and loss by torch.compile."""

    def __init__(
        self, network: ActorCritic, loss: TorchLoss, descent: Descent[Tensor], *, compiled: bool = False
    ) -> None:
        self._network, self._loss, self.descent = network, loss, descent
        self._compiled = compiled
        self.device = descent.flat.device
        self._objective = gpu.compiled(self._plain_objective, self.device) if compiled else self._plain_objective
        self._policy: Callable[[tuple[Tensor, ...]], Tensor] = network.policy
        self._outputs: Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]] = network.forward
        if compiled and gpu.acts_compiled(self.device):
            self._policy = gpu.compiled_by_rows(network.policy, self.device)
            self._outputs = gpu.compiled_by_rows(network.forward, self.device)
        self._coefficients: tuple[Any, Any] = (None, None)
        """The last ones, and the same as tensors."""
        self._batch: PolicyBatch | None = None

    def policy(self, features: tuple[Array, ...]) -> Array:
        with torch.no_grad(), threads_for(len(features[0])):
            return _array(self._policy(self._tensors(features)))

    def evaluate(self, features: tuple[Array, ...]) -> tuple[Array, Array]:
        outputs = []
        with torch.no_grad():
            for start in range(0, len(features[0]), CHUNK):
                chunk = self._tensors(tuple(part[start : start + CHUNK] for part in features))
                outputs.append([_array(out) for out in self._outputs(chunk)])
        params, values = zip(*outputs, strict=True)
        return np.concatenate(params), np.concatenate(values)

    def load(self, batch: PolicyBatch) -> None:
        self._batch = batch.map(lambda part: gpu.uploaded(part, self.device))

    def step(self, rows: Array, coefficients: Any, learning_rate: float) -> Metrics:
        assert self._batch is not None, "load comes before step"
        index = gpu.uploaded(rows, self.device)
        batch = self._batch.map(lambda part: part[index])
        if self._compiled and coefficients is not None:
            coefficients = self._not_constant(coefficients)
        loss, metrics = self._objective(batch, coefficients)
        self.descent.gradients.zero_()
        torch.autograd.backward(loss)
        metrics["grad_norm"] = self.descent.step(learning_rate)
        numbers = torch.stack([value.detach() for value in metrics.values()]).tolist()  # one transfer for all
        return dict(zip(metrics, numbers, strict=True))

    def _plain_objective(self, batch: PolicyBatch, coefficients: Any) -> tuple[Tensor, dict[str, Tensor]]:
        params, values = self._network(batch.features)
        if batch.action_mask is not None:
            params = params.masked_fill(~batch.action_mask, MASKED)
        return self._loss(self._network.head, params, values, batch, coefficients)

    def state_dict(self) -> dict[str, Any]:
        return self.descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.descent.load_state_dict(state)

    def _tensors(self, features: tuple[Array, ...]) -> tuple[Tensor, ...]:
        return tuple(gpu.uploaded(part, self.device) for part in features)

    def _not_constant(self, coefficients: Any) -> Any:
        """Numbers as tensors: torch.compile takes one for a constant, and compiles anew when a schedule changes it."""

        def tensor(value: Any) -> Any:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return torch.tensor(float(value), device=self.device) if number else value

        if coefficients != self._coefficients[0]:
            self._coefficients = coefficients, type(coefficients)(*map(tensor, coefficients))
        return self._coefficients[1]


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array
