"""Optimisers by name, learning rate schedules, weight penalties and gradient clipping."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from rlkit.perception.config import FitConfig


def make_optimizer(module: nn.Module, config: FitConfig, learning_rate: float) -> Optimizer:
    """Makes the optimiser that `config` describes for all parameters that are not frozen."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        momentum = config.momentum
        decay = config.weight_decay
        return SGD(parameters, learning_rate, momentum=momentum, nesterov=config.nesterov, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return RMSprop(
            parameters, learning_rate, alpha=config.beta2, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = AdamW if config.optimizer == "adamw" else Adam
    return kind(parameters, learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay)


def state_names(config: FitConfig) -> list[str]:
    """Lists the tensors that the optimiser keeps for each parameter, once it has taken a step."""
    if config.optimizer in ("adam", "adamw"):
        return ["exp_avg", "exp_avg_sq", "step"]
    momentum = ["momentum_buffer"] if config.momentum else []
    return momentum if config.optimizer == "sgd" else [*momentum, "square_avg", "step"]


def check_optimizer_state(optimizer: Optimizer, config: FitConfig, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Raises ValueError unless a stored state, tensors by a parameter's number and their names, is this optimiser's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, tensors in state.items():
        if not 0 <= index < len(parameters) or sorted(tensors) != state_names(config):
            raise ValueError(f"the optimiser's state of parameter {index} is not complete, or of another optimiser")
        for name, tensor in tensors.items():
            shape = torch.Size() if name == "step" else parameters[index].shape
            if tensor.shape != shape or tensor.dtype != torch.float32:
                raise ValueError(f"the optimiser's {name} of parameter {index} does not fit the parameter")
            if not bool(tensor.isfinite().all()) or (name.endswith(("_sq", "step", "square_avg")) and tensor.min() < 0):
                raise ValueError(f"the optimiser's {name} of parameter {index} is not finite, or negative")


def learning_rate_factor(config: FitConfig, step: int, total_steps: int, epoch: int) -> float:
    """Returns the factor of the learning rate in step `step` of `total_steps`; steps and epochs count from 0.

    It first grows linearly to 1 over `warmup_steps`, then follows the schedule. `constant` stays at 1. `linear` and
    `cosine` fall to 0 at the end. `step` multiplies by `schedule_factor` every `schedule_epochs` epochs, `exponential`
    in every epoch. `one_cycle` climbs from 1/25 to 1 for 30 % of the run, and falls along a cosine to almost nothing
    (Smith & Topin 2018).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    share = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    if config.schedule == "linear":
        return 1 - share
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if config.schedule == "step":
        return config.schedule_factor ** (epoch // config.schedule_epochs)
    if config.schedule == "exponential":
        return config.schedule_factor**epoch
    if config.schedule == "one_cycle":
        if share < 0.3:
            return _between(1 / 25, 1.0, share / 0.3)
        return _between(1.0, 1e-4, (share - 0.3) / 0.7)
    return 1.0


def _between(start: float, end: float, share: float) -> float:
    """Interpolates from `start` to `end` along half a period of a cosine; `share` is from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def penalty(module: nn.Module, l1: float, l2: float, pattern: str) -> Tensor | None:
    """Returns l1 Σ|w| + l2 Σw² over the weights whose names match the pattern; None if both factors are 0.

    Biases are left out: they are the parameters with a single dimension.
    """
    if not l1 and not l2:
        return None
    weights = [
        parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.dim() > 1 and re.search(pattern, name)
    ]
    total = torch.zeros((), device=weights[0].device) if weights else torch.zeros(())
    for weight in weights:
        if l1:
            total = total + l1 * weight.abs().sum()
        if l2:
            total = total + l2 * weight.square().sum()
    return total


def clip_gradients(
    parameters: Iterable[Tensor], *, value: float | None, norm: float | None, global_norm: float | None
) -> None:
    """Clips gradients in place: each entry, then the norm of each tensor, then the norm of all together.

    A limit of None leaves its stage out.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    if norm is not None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_([parameter], norm)
    if global_norm is not None:
        nn.utils.clip_grad_norm_(parameters, global_norm)
