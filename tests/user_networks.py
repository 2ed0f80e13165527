"""Networks as a user's own module would define them, good and bad ones."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn


class Small(nn.Module):
    """Two layers on everything that an observation holds, whatever its nesting."""

    def __init__(self, observation_space: spaces.Space[Any], hidden: int = 32, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.LazyLinear(hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.num_features = hidden

    def forward(self, obs: Any) -> Tensor:
        out: Tensor = self.body(self.scale * torch.cat(list(flat(obs)), 1))
        return out


def flat(obs: Any) -> Any:
    """The leaves of a nested observation as (batch, numbers)."""
    if isinstance(obs, dict | tuple):
        for part in obs.values() if isinstance(obs, dict) else obs:
            yield from flat(part)
    else:
        yield obs.reshape(len(obs), -1).float()


class Convolutional(nn.Module):
    """A CNN for images with their channels first."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(observation_space.shape[0], 4, 8, 8), nn.ReLU(), nn.Flatten())

    def forward(self, obs: Tensor) -> Tensor:
        out: Tensor = self.cnn(obs / 255)
        return out


class Fixed(nn.Module):
    """Random Fourier features, drawn by the generators of three libraries: none learns."""

    def __init__(self, observation_space: spaces.Box, frozen: bool = False) -> None:
        super().__init__()
        drawn = [torch.randn(()).item(), float(np.random.normal()), random.gauss(0, 1)]
        weight = torch.tensor(drawn).reshape(-1, 1).repeat(1, observation_space.shape[0])
        if frozen:
            self.weight: Tensor = nn.Parameter(weight, requires_grad=False)
        else:
            self.register_buffer("weight", weight)

    def forward(self, obs: Tensor) -> Tensor:
        return torch.sin(obs @ self.weight.T)


class LeftBehind(nn.Module):
    """Has a tensor that does not go to a GPU with it."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__()
        self.weight = torch.ones(observation_space.shape[0], 2)

    def forward(self, obs: Tensor) -> Tensor:
        return obs @ self.weight


class Records(nn.Module):
    """Keeps what it was given last."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, obs: Any) -> Tensor:
        self.last = obs
        out: Tensor = self.linear(next(flat(obs))[:, :1])
        return out


class Bad(nn.Module):
    """Does one thing wrong, which `fault` names."""

    def __init__(self, observation_space: spaces.Box, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.linear = nn.Linear(observation_space.shape[0], 4)
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout()
        if fault == "constructor":
            raise ValueError("boom\nin two lines")
        if fault == "num_features":
            self.num_features = 5
        if fault == "float64 parameter":
            self.extra = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        if fault == "copy":
            self.stream = (number for number in range(3))

    def forward(self, obs: Tensor) -> Any:
        if self.fault == "in place":
            obs -= 1
        out = self.linear(obs)
        match self.fault:
            case "forward":
                raise ValueError("boom\nin two lines")
            case "tuple":
                return out, out
            case "flat":
                return out[:, 0]
            case "no batch":
                return out.mean(0)
            case "too deep":
                return out[:, None]
            case "empty":
                return out[:, :0]
            case "float64":
                return out.double()
            case "bool":
                return out > 0
            case "nan":
                return out.log() * 0 - torch.inf
            case "batch norm":
                return self.norm(out)
            case "dropout":
                return self.dropout(out)
            case "batch mean":
                return out - out.mean(0)
            case "no gradient":
                return out.detach()
        return out


def not_a_class() -> None:
    """A function where a class is expected."""


class NotAModule:
    """A class of another kind."""
