"""Torch's optimisers on flat parameters: one call for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.engine.descent import Rate
from rlkit.spaces import Array


class TorchOptimizer:
    """Adam or RMSProp of torch; see `rlkit.engine.descent.Optimizer`.

    `rates` multiply the learning rate of each parameter: `rlkit.engine.descent.rates`.
    """

    def __init__(
        self, name: str, parameters: Tensor, gradients: Tensor, *, eps: float, rates: Tensor | None = None
    ) -> None:
        self._gradients = gradients
        self._rates = None if rates is None else rates.to(parameters.device)
        self._moved = nn.Parameter(parameters)
        self._moved.grad = gradients
        self._capturable = parameters.is_cuda  # its steps may be recorded as CUDA graphs
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.Adam([self._moved], eps=eps, fused=True, capturable=self._capturable)
            if name == "adam"
            else torch.optim.RMSprop([self._moved], eps=eps, capturable=self._capturable)
        )
        names = ("exp_avg", "exp_avg_sq") if name == "adam" else ("square_avg",)
        self._set({name: torch.zeros_like(parameters) for name in names}, 0)

    @property
    def steps(self) -> int:
        return int(self._state["step"].item())

    @steps.setter
    def steps(self, steps: int) -> None:
        self._state["step"].fill_(float(steps))

    @property
    def moments(self) -> dict[str, Array]:
        return {name: moment.cpu().numpy() for name, moment in self._state.items() if name != "step"}

    def attach(self, parameters: Array, moments: Mapping[str, Array]) -> None:
        self._moved = nn.Parameter(torch.from_numpy(parameters))
        self._moved.grad = self._gradients
        self._optimizer.param_groups[0]["params"] = [self._moved]
        self._set({name: torch.from_numpy(moment) for name, moment in moments.items()}, 0)

    def clip(self, max_norm: float | None) -> Tensor:
        norm: Tensor = self._gradients.norm()
        if max_norm is not None:
            self._gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def step(self, learning_rate: Rate) -> None:
        self._optimizer.param_groups[0]["lr"] = learning_rate
        before = None if self._rates is None else self._moved.detach().clone()
        self._optimizer.step()
        if before is not None and self._rates is not None:
            with torch.no_grad():
                self._moved.copy_(before.lerp(self._moved, self._rates))

    def state_dict(self) -> dict[str, Any]:
        return {**{name: moment.copy() for name, moment in self.moments.items()}, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # In place, since CUDA graphs hold the addresses of the moments.
        for name in self.moments:
            self._state[name].copy_(torch.from_numpy(np.array(state[name], np.float32)))
        self.steps = state["steps"]

    @property
    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._optimizer.state[self._moved]
        return state

    def _set(self, moments: dict[str, Tensor], steps: int) -> None:
        # A plain RMSProp wants the count of steps on the CPU, all others beside the parameters.
        beside = self._capturable or isinstance(self._optimizer, torch.optim.Adam)
        step = torch.tensor(float(steps), device=self._moved.device if beside else "cpu")
        self._optimizer.state[self._moved] = {"step": step, **moments}
