"""Noisy networks (Fortunato et al. 2018): linear layers that explore by noise in their weights, of a learned size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.system import gpu


class NoisyLinear(nn.Linear):
    """A linear layer with weights μ + σ·ε and factorised noise ε_ij = f(ε_i) f(ε_j): the paper's equations 9 to 11.

    μ are `weight` and `bias`, σ are `weight_std` and `bias_std`. Outside of a `noise_from` block there is no noise, as
    if ε were 0.
    """

    noise: tuple[Tensor, Tensor] | None = None
    """The factors f(ε) for the inputs, (inputs,), and for the outputs, (outputs,); None: no noise."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__(inputs, outputs)
        start = std / math.sqrt(inputs)
        self.weight_std = nn.Parameter(torch.full((outputs, inputs), start))
        self.bias_std = nn.Parameter(torch.full((outputs,), start))

    def forward(self, x: Tensor) -> Tensor:
        if self.noise is None:
            return super().forward(x)
        inputs, outputs = self.noise
        weight = torch.addcmul(self.weight, self.weight_std, torch.outer(outputs, inputs))
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_std, outputs))


@contextmanager
def noise_from(rng: np.random.Generator | None, body: nn.Sequential) -> Iterator[None]:
    """Draws noise for the noisy layers of `body`, which use it for all rows until the block ends.

    Without a generator there is no noise.
    """
    layers = [layer for layer in body if isinstance(layer, NoisyLinear)]
    if rng is None or not layers:
        yield
        return
    # One draw serves all layers, since many small draws would take longer than the layers themselves.
    sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
    drawn = rng.standard_normal(sum(sizes), dtype=np.float32)
    noise = gpu.uploaded(np.copysign(np.sqrt(np.abs(drawn)), drawn), layers[0].weight.device)
    parts = iter(torch.split(noise, sizes))
    for layer in layers:
        layer.noise = next(parts), next(parts)
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None
