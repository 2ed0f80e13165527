"""Normalisation written out: the functions that torch's layers compute, and batch normalisation as a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError


def standardize(inputs: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Returns (x − mean) / √(variance + ε), with both taken over `dims`.

    The variance is the biased one, which divides by the number of values.
    """
    mean = inputs.mean(dims, keepdim=True)
    variance = ((inputs - mean) ** 2).mean(dims, keepdim=True)
    return (inputs - mean) / torch.sqrt(variance + eps)


def layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer normalisation: each sample by itself, over all its values (Ba et al. 2016).

    γ and β have the shape of a sample.
    """
    return standardize(inputs, tuple(range(1, inputs.dim())), eps) * gamma + beta


def instance_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Instance normalisation: each channel of each image by itself (Ulyanov et al. 2016).

    `inputs` is (batch, channels, h, w); γ and β are (channels,).
    """
    return standardize(inputs, (2, 3), eps) * gamma[:, None, None] + beta[:, None, None]


def group_norm(inputs: Tensor, groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Group normalisation: each group of channels of each image by itself (Wu & He 2018).

    `inputs` is (batch, channels, h, w); γ and β are (channels,). Raises RlkitError if the channels cannot be divided
    into `groups` of equal size.
    """
    batch, channels, height, width = inputs.shape
    if channels % groups:
        raise RlkitError(f"{channels} channels can't be divided into groups={groups} of equal size")
    grouped = inputs.reshape(batch, groups, -1)
    normal = standardize(grouped, (2,), eps).reshape(batch, channels, height, width)
    return normal * gamma[:, None, None] + beta[:, None, None]


class BatchNorm(nn.Module):
    """Batch normalisation of each feature of (batch, features), or of each channel of (batch, channels, h, w).

    Training uses the batch's own mean and variance, and keeps running ones for evaluation (Ioffe & Szegedy 2015).
    Agrees with `torch.nn.BatchNorm1d` and `BatchNorm2d`, state dict included. Raises RlkitError for a training batch
    with a single value per feature, which has no variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))  # γ
        self.bias = nn.Parameter(torch.zeros(num_features))  # β
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the inputs, normalised, scaled by γ and shifted by β; their shape stays."""
        dims = (0,) if inputs.dim() == 2 else (0, 2, 3)
        shape = (1, -1) if inputs.dim() == 2 else (1, -1, 1, 1)
        count = inputs.numel() // inputs.shape[1]  # values per feature
        if self.training:
            if count < 2:
                raise RlkitError("batch normalisation can't be trained on 1 value per channel: use larger batches")
            mean = inputs.mean(dims)
            variance = ((inputs - mean.view(shape)) ** 2).mean(dims)
            with torch.no_grad():  # as in torch, the running variance is the unbiased estimate, the batch's own is not
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
                self.num_batches_tracked += 1
        else:
            mean, variance = self.running_mean, self.running_var
        normal = (inputs - mean.view(shape)) / torch.sqrt(variance.view(shape) + self.eps)
        return normal * self.weight.view(shape) + self.bias.view(shape)
