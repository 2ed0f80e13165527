"""Noisy networks (Fortunato et al. 2018): linear layers that explore, by weights whose noise is learned too."""

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
    """A linear layer of the weights μ + σ·ε with factorised noise, ε_ij = f(ε_i) f(ε_j): its equations 9 to 11.

    μ are `weight` and `bias`, σ `weight_std` and `bias_std`. Outside of `noise_from` there is no noise: ε is 0.
    """

    noise: tuple[Tensor, Tensor] | None = None
    """f(ε) of the inputs and of the outputs."""

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
    """Inside, the noisy layers of `body` have noise that is drawn now, one for all rows; with None there is none."""
    layers = [layer for layer in body if isinstance(layer, NoisyLinear)]
    if rng is None or not layers:
        yield
        return
    # One draw for all of them: many small ones would take longer than the layers.
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
