"""How parameters take a step: optimisers by name, learning rates over a run, clipped gradients, penalties."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from rlkit.perception.config import FitConfig


def make_optimizer(module: nn.Module, config: FitConfig, learning_rate: float) -> Optimizer:
    """The optimiser that `config` describes, of the parameters that are not frozen."""
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


def learning_rate_factor(config: FitConfig, step: int, total_steps: int, epoch: int) -> float:
    """What the learning rate is multiplied by: in step `step`, counted from 0 as epochs are, of `total_steps`.

    `constant`: 1. `linear` and `cosine` fall to 0 at the end; `step` multiplies by `schedule_factor` every
    `schedule_epochs` epochs, `exponential` does so in each. `one_cycle` climbs for 30 % of the run from 1/25, and falls
    by a cosine to almost nothing (Smith & Topin 2018). Before that, it grows linearly over `warmup_steps`.
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
    """From start to end along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def penalty(module: nn.Module, l1: float, l2: float, pattern: str) -> Tensor | None:
    """l1 Σ|w| + l2 Σw² over the weights (not biases, which are vectors) whose names match; None where both are 0."""
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
    """Clips what there is to clip, in this order: each entry, each tensor's norm, the norm of all together."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    if norm is not None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_([parameter], norm)
    if global_norm is not None:
        nn.utils.clip_grad_norm_(parameters, global_norm)
