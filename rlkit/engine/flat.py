"""All parameters of a module in one flat tensor, so that clipping and the optimiser are one call each."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flatten_parameters(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Makes every parameter and its gradient a view of two flat tensors, and returns those.

    The module keeps its names, shapes and values; `load_state_dict` writes through the views. Moving the module to
    another device afterwards would break them.
    """
    parameters = list(module.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    gradients = torch.zeros_like(flat)
    start = 0
    for p in parameters:
        end = start + p.numel()
        p.data = flat[start:end].view(p.shape)
        p.grad = gradients[start:end].view(p.shape)
        start = end
    return flat, gradients


def rates(module: nn.Module, part: nn.Module, rate: float) -> Tensor:
    """What multiplies the learning rate of each of `flatten_parameters`: `rate` in `part` of the module, else 1."""
    parameters, chosen = list(module.parameters()), {id(p) for p in part.parameters()}
    return torch.cat([torch.full((p.numel(),), rate if id(p) in chosen else 1.0) for p in parameters])
