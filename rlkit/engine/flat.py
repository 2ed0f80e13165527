"""All parameters of a module in one flat tensor, so that clipping and the optimiser are one call each."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flatten_parameters(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Makes every parameter and its gradient a view of two flat tensors, and returns those.

    The module keeps its names, shapes, values and the order of its memory: filters that have their channels last keep
    them there. `load_state_dict` writes through the views. Moving the module to another device afterwards would break
    them.
    """
    parameters = list(module.parameters())
    flat = torch.cat([_in_memory(p.detach()).reshape(-1) for p in parameters])
    gradients = torch.zeros_like(flat)
    start = 0
    for p in parameters:
        end = start + p.numel()
        shape = _in_memory(p).shape
        values, grads = flat[start:end].view(shape), gradients[start:end].view(shape)
        p.data, p.grad = (values, grads) if p.is_contiguous() else (_channels_second(values), _channels_second(grads))
        start = end
    return flat, gradients


def _in_memory(parameter: Tensor) -> Tensor:
    """The parameter with its axes in the order of its memory: filters with their channels last, or any other as is."""
    return parameter if parameter.is_contiguous() else parameter.permute(0, 2, 3, 1)


def _channels_second(filters: Tensor) -> Tensor:
    return filters.permute(0, 3, 1, 2)


def rates(module: nn.Module, part: nn.Module, rate: float) -> Tensor:
    """What multiplies the learning rate of each of `flatten_parameters`: `rate` in `part` of the module, else 1."""
    parameters, chosen = list(module.parameters()), {id(p) for p in part.parameters()}
    return torch.cat([torch.full((p.numel(),), rate if id(p) in chosen else 1.0) for p in parameters])
