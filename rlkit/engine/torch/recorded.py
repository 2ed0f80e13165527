"""Gradient steps of an actor-critic network that a GPU replays as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.descent import Rate
from rlkit.spaces import Array
from rlkit.system import gpu

Objective = Callable[[PolicyBatch, Any], tuple[Tensor, dict[str, Tensor]]]
"""(minibatch, coefficients) -> the loss, and metrics."""


class RecordedStep:
    """Gradient steps recorded as CUDA graphs, with the batch in memory that stays where it is.

    Numbers that schedules change, the learning rate and coefficients of the loss, travel in one small tensor; all else
    in the coefficients is part of the recording.
    """

    def __init__(
        self,
        step: Callable[[Objective, PolicyBatch, Tensor, Any, Rate], dict[str, Tensor]],
        plain: Objective,
        fast: Objective,
        device: torch.device,
    ) -> None:
        self._step, self._plain, self._fast, self._device = step, plain, fast, device
        self._batch: PolicyBatch | None = None
        self._by_constants: dict[tuple[Any, ...], gpu.Recorded] = {}
        self._names: tuple[str, ...] = ()

    def in_place(self, batch: PolicyBatch) -> PolicyBatch:
        """Copies the batch to where the last one was, if it has the same form; otherwise recordings begin anew."""
        if self._batch is None or _form(self._batch) != _form(batch):
            self._batch = batch.map(lambda part: gpu.uploaded(part, self._device).clone())
            self._by_constants.clear()
            return self._batch
        places = (*self._batch.features, *self._batch[1:])
        for place, part in zip(places, (*batch.features, *batch[1:]), strict=True):
            if part is not None:
                gpu.upload_into(place, part)
        return self._batch

    def __call__(
        self, batch: PolicyBatch, rows: Array, coefficients: Any, learning_rate: float
    ) -> tuple[tuple[str, ...], Tensor]:
        """Takes a gradient step on the rows of the batch; returns the metrics' names and values, on the device."""
        fields = () if coefficients is None else coefficients._fields
        changing = [name for name in fields if is_number(getattr(coefficients, name))]
        numbers = np.array([learning_rate, *(getattr(coefficients, name) for name in changing)], np.float32)
        constants = tuple(getattr(coefficients, name) for name in fields if name not in changing)
        if (recorded := self._by_constants.get(constants)) is None:

            def step(objective: Objective, index: Tensor, numbers: Tensor) -> tuple[Tensor]:
                rate, *values = numbers.unbind()
                given = (
                    coefficients if not fields else coefficients._replace(**dict(zip(changing, values, strict=True)))
                )
                metrics = self._step(objective, batch, index, given, rate)
                self._names = tuple(metrics)
                return (torch.stack(list(metrics.values())),)

            recorded = gpu.Recorded(partial(step, self._plain), self._device, partial(step, self._fast))
            self._by_constants[constants] = recorded
        (found,) = recorded(rows, numbers)
        return self._names, found


def _form(batch: PolicyBatch) -> list[object]:
    """Returns the shapes of a batch's arrays; None for those that it does not have."""
    return [None if part is None else tuple(part.shape) for part in (*batch.features, *batch[1:])]


def is_number(value: Any) -> bool:
    """Returns True for numbers that a schedule may change; a bool is not one of them."""
    return isinstance(value, int | float) and not isinstance(value, bool)
