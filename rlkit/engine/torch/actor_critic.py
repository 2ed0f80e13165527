"""The reference engine: autograd, for every network and device.

By `compute=compile` its losses are compiled; on a GPU, its steps can be recorded as CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.actor_critic import Metrics, TorchLoss
from rlkit.engine.descent import Descent, Rate
from rlkit.engine.threads import threads_for
from rlkit.engine.torch.recorded import Objective, RecordedStep, is_number
from rlkit.networks.actor_critic import ActorCritic
from rlkit.spaces import MASKED_LOGIT, Array
from rlkit.system import gpu

MASKED = float(MASKED_LOGIT)
CHUNK = 1024
"""Rows evaluated at once outside of updates, so that a rollout of images fits in memory."""


class TorchEngine:
    """Gradient steps on a loss written with torch; see `Engine`.

    `compiled` fuses network and loss by torch.compile. `recorded`, for a network on a GPU that this process trains
    alone, makes CUDA graphs of whole gradient steps, and of acting and evaluating for batch sizes that come often.
    """

    def __init__(
        self,
        network: ActorCritic,
        loss: TorchLoss,
        descent: Descent[Tensor],
        *,
        compiled: bool = False,
        recorded: bool = False,
    ) -> None:
        self._network, self._loss, self.descent = network, loss, descent
        self.device = descent.flat.device
        self._objective: Objective = torch.compile(self._plain_objective) if compiled else self._plain_objective
        self._compiled = compiled
        self._policy: Callable[..., tuple[Tensor, ...]] = self._plain_policy
        self._outputs: Callable[..., tuple[Tensor, ...]] = self._plain_outputs
        self._recorded_step: RecordedStep | None = None
        if recorded:
            fast_policy = torch.compile(self._plain_policy, dynamic=False) if compiled else None
            fast_outputs = torch.compile(self._plain_outputs, dynamic=False) if compiled else None
            self._policy = gpu.Recorded(self._plain_policy, self.device, fast_policy)
            self._outputs = gpu.Recorded(self._plain_outputs, self.device, fast_outputs)
            self._recorded_step = RecordedStep(self._step, self._plain_objective, self._objective, self.device)
        self._coefficients: tuple[Any, Any] = (None, None)
        """The last ones, and the same as tensors."""
        self._batch: PolicyBatch | None = None

    def policy(self, features: tuple[Array, ...]) -> Array:
        with torch.no_grad(), threads_for(len(features[0])):
            return _array(self._policy(*self._tensors(features))[0])

    def evaluate(self, features: tuple[Array, ...]) -> tuple[Array, Array]:
        outputs = []
        with torch.no_grad():
            for start in range(0, len(features[0]), CHUNK):
                chunk = self._tensors(tuple(part[start : start + CHUNK] for part in features))
                outputs.append([_array(out) for out in self._outputs(*chunk)])
        params, values = zip(*outputs, strict=True)
        return np.concatenate(params), np.concatenate(values)

    def uploaded(self, features: tuple[Array, ...]) -> tuple[Any, ...]:
        return features if self.device.type == "cpu" else self._tensors(features)

    def load(self, batch: PolicyBatch) -> None:
        if self._recorded_step is not None:
            batch = self._recorded_step.in_place(batch)
        self._batch = batch.map(lambda part: gpu.uploaded(part, self.device))

    def step(self, rows: Array, coefficients: Any, learning_rate: float) -> Metrics:
        assert self._batch is not None, "load comes before step"
        if self._recorded_step is not None and self.descent.recordable:
            names, found = self._recorded_step(self._batch, rows, coefficients, learning_rate)
            return dict(zip(names, found.tolist(), strict=True))
        if self._compiled and coefficients is not None:
            coefficients = self._not_constant(coefficients)
        index = gpu.uploaded(rows, self.device)
        metrics = self._step(self._objective, self._batch, index, coefficients, learning_rate)
        numbers = torch.stack(list(metrics.values())).tolist()  # one transfer for all
        return dict(zip(metrics, numbers, strict=True))

    def _step(
        self, objective: Objective, batch: PolicyBatch, index: Tensor, coefficients: Any, learning_rate: Rate
    ) -> dict[str, Tensor]:
        """Takes a gradient step on some rows of the batch; returns the metrics, which nothing has waited for yet."""
        loss, metrics = objective(batch.map(lambda part: part[index]), coefficients)
        self.descent.gradients.zero_()
        torch.autograd.backward(loss)
        metrics = {name: value.detach() for name, value in metrics.items()}
        return {**metrics, "grad_norm": self.descent.step(learning_rate)}

    def _plain_objective(self, batch: PolicyBatch, coefficients: Any) -> tuple[Tensor, dict[str, Tensor]]:
        params, values = self._network(batch.features)
        if batch.action_mask is not None:
            params = params.masked_fill(~batch.action_mask, MASKED)
        return self._loss(self._network.head, params, values, batch, coefficients)

    def _plain_policy(self, *features: Tensor) -> tuple[Tensor]:
        return (self._network.policy(features),)

    def _plain_outputs(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        return self._network(features)  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        return self.descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.descent.load_state_dict(state)

    def _tensors(self, features: tuple[Array, ...]) -> tuple[Tensor, ...]:
        return tuple(gpu.uploaded(part, self.device) for part in features)

    def _not_constant(self, coefficients: Any) -> Any:
        """Numbers as tensors: torch.compile takes one for a constant, and compiles anew when a schedule changes it."""

        def tensor(value: Any) -> Any:
            return torch.tensor(float(value), device=self.device) if is_number(value) else value

        if coefficients != self._coefficients[0]:
            self._coefficients = coefficients, type(coefficients)(*map(tensor, coefficients))
        return self._coefficients[1]


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array
