"""The MLP of `rlkit/perception/scratch/backprop.py` as a torch module, so that `fit` can train it.

NumPy computes outputs and gradients; torch keeps the parameters and takes the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.perception.scratch.backprop import backward, forward


class NumpyMLP(nn.Module):
    """Sigmoid layers, the last one included, whose gradients are backpropagated by hand in NumPy.

    Weights start from N(0, 1/inputs), biases from the uniform distribution on [0, 0.1].
    """

    def __init__(
        self, *, input_shape: Sequence[int] = (2,), num_outputs: int = 2, hidden_sizes: Sequence[int] = (25, 50, 25)
    ) -> None:
        super().__init__()
        sizes = [math.prod(int(size) for size in input_shape), *(int(size) for size in hidden_sizes), num_outputs]
        self.weights = nn.ParameterList(torch.randn(a, b) * math.sqrt(1 / a) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(0.1 * torch.rand(size) for size in sizes[1:])

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns outputs between 0 and 1: (batch, …) -> (batch, num_outputs)."""
        outputs: Tensor = _Layers.apply(inputs.flatten(1), *self.weights, *self.biases)  # type: ignore[no-untyped-call]
        return outputs


class _Layers(torch.autograd.Function):
    """The function that hands NumPy's outputs and gradients to autograd."""

    @staticmethod
    def forward(context: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        arrays = [parameter.detach().numpy() for parameter in parameters]
        context.weights, biases = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
        context.activations = forward(x.numpy(), context.weights, biases)
        return torch.from_numpy(context.activations[-1])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, biases = backward(context.activations, context.weights, gradient.numpy())
        return (None, *(torch.from_numpy(array) for array in [*weights, *biases]))
