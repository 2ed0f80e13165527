"""Gradient steps on all of a module's parameters at once, as one flat vector: by torch, or by NumPy on its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.engine.flat import flatten_parameters
from rlkit.engine.optim import MOMENTS, clip_global_norm, make_optimizer
from rlkit.spaces import Array


class TorchDescent:
    """Clips and follows the gradients of torch losses, with torch's optimiser of that name.

    `rates` multiply the learning rates of the flat parameters: `rlkit.engine.flat.rates`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        max_grad_norm: float | None,
        optimizer: str,
        eps: float,
        rates: Tensor | None = None,
    ) -> None:
        flat, gradients = flatten_parameters(module)
        self.device = flat.device
        self.flat = nn.Parameter(flat)
        self.flat.grad = gradients
        self._rates = None if rates is None else rates.to(self.device)
        self._max_grad_norm = max_grad_norm
        self._moments = MOMENTS[optimizer]
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.Adam([self.flat], eps=eps, fused=True)
            if optimizer == "adam"
            else torch.optim.RMSprop([self.flat], eps=eps)
        )

    def step(self, loss: Tensor, learning_rate: float) -> Tensor:
        """Moves the parameters; returns the gradient's norm before clipping."""
        assert self.flat.grad is not None
        self.flat.grad.zero_()
        torch.autograd.backward(loss)
        norm: Tensor = self.flat.grad.norm()
        if self._max_grad_norm is not None:
            self.flat.grad.mul_((self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self._optimizer.param_groups[0]["lr"] = learning_rate
        if self._rates is None:
            self._optimizer.step()
            return norm
        with torch.no_grad():
            before = self.flat.clone()
            self._optimizer.step()
            self.flat.copy_(before.lerp(self.flat, self._rates))
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's moments by name, and its steps: the same as `NumpyDescent`'s."""
        state = self._optimizer.state.get(self.flat)
        if not state:
            return {**{name: np.zeros(self.flat.numel(), np.float32) for name in self._moments}, "steps": 0}
        moments = {name: state[name].cpu().numpy().copy() for name in self._moments}
        return {**moments, "steps": int(state["step"].item())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

        def tensor(value: Any) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float32, device=self.device).clone()

        moments = {name: tensor(state[name]) for name in self._moments}
        self._optimizer.state[self.flat] = {"step": tensor(float(state["steps"])), **moments}


class NumpyDescent:
    """Clips and follows gradients that were written into `gradients`, or into the module's own `grad`."""

    def __init__(
        self,
        module: nn.Module,
        *,
        max_grad_norm: float | None,
        optimizer: str,
        eps: float,
        rates: Tensor | None = None,
    ) -> None:
        flat, gradients = flatten_parameters(module)
        self.flat: Array = flat.numpy()
        self.gradients: Array = gradients.numpy()
        self._max_grad_norm = max_grad_norm
        self._rates: float | Array = 1.0 if rates is None else rates.numpy()
        self.optimizer, self._moments = make_optimizer(optimizer, len(self.flat), eps)

    def step(self, learning_rate: float) -> float:
        """Moves the parameters and uses up the gradients; returns their norm before clipping."""
        norm = clip_global_norm(self.gradients, self._max_grad_norm)
        self.optimizer.step(self.flat, self.gradients, learning_rate * self._rates)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's moments by name, and its steps: the same as `TorchDescent`'s."""
        return {**{name: array.copy() for name, array in self._moments.items()}, "steps": self.optimizer.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for name, array in self._moments.items():
            array[:] = state[name]
        self.optimizer.steps = int(state["steps"])
