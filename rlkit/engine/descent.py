"""Gradient steps on all of a module's parameters at once, as one flat vector: by torch, or by NumPy on its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.engine.flat import flatten_parameters
from rlkit.engine.native.optimizers import MOMENTS
from rlkit.engine.native.primitives import Primitives
from rlkit.engine.shared import SharedParameters
from rlkit.spaces import Array
from rlkit.system import ranks

Push = Callable[[Array, float], None]
"""Takes a clipped gradient, flat, and the learning rate that goes with it."""


class Descent(Protocol):
    """Follows gradients: of the module's own parameters, or of those that processes `share`, or `send`s them away."""

    moments: tuple[str, ...]
    """The names of what the optimiser remembers."""

    def share(self, shared: SharedParameters, worker: int) -> None:
        """From now on, steps move the shared parameters and moments instead of the module's, without a lock."""

    def send(self, push: Push, parameters: Array) -> None:
        """From now on, steps move nothing but hand their gradients to `push`; `parameters` are what `pull` copies."""

    def pull(self) -> None:
        """Copies the shared parameters, if there are any, into the module."""


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
        self.moments = MOMENTS[optimizer]
        self._rates = None if rates is None else rates.to(self.device)
        self._max_grad_norm = max_grad_norm
        self._shared: SharedParameters | None = None
        self._push: Push | None = None
        self._source: Array | None = None
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
        ranks.mean_(self.flat.grad)
        norm: Tensor = self.flat.grad.norm()
        if self._max_grad_norm is not None:
            self.flat.grad.mul_((self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        if self._push is not None:
            self._push(self.flat.grad.numpy(), learning_rate)
            return norm
        self._optimizer.param_groups[0]["lr"] = learning_rate
        before = None if self._rates is None else self.flat.detach().clone()
        if self._shared is not None:
            moved = self._optimizer.param_groups[0]["params"][0]
            self._optimizer.state[moved]["step"].fill_(float(self._shared.updates.sum()))
        self._optimizer.step()
        if self._shared is not None:
            self._shared.updates[self._worker] += 1
        if before is not None and self._rates is not None:
            with torch.no_grad():
                self.flat.copy_(before.lerp(self.flat, self._rates))
        return norm

    def share(self, shared: SharedParameters, worker: int) -> None:
        self._shared, self._worker, self._source = shared, worker, shared.parameters
        moved = nn.Parameter(torch.from_numpy(shared.parameters))
        moved.grad = self.flat.grad
        self._optimizer.param_groups[0]["params"] = [moved]
        moments = {name: torch.from_numpy(array) for name, array in shared.moments.items()}
        self._optimizer.state[moved] = {"step": torch.zeros(()), **moments}

    def send(self, push: Push, parameters: Array) -> None:
        self._push, self._source = push, parameters

    def pull(self) -> None:
        if self._source is not None:
            with torch.no_grad():
                self.flat.copy_(torch.from_numpy(self._source))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's moments by name, and its steps: the same as `NumpyDescent`'s."""
        state = self._optimizer.state.get(self.flat)
        if not state:
            return {**{name: np.zeros(self.flat.numel(), np.float32) for name in self.moments}, "steps": 0}
        moments = {name: state[name].cpu().numpy().copy() for name in self.moments}
        return {**moments, "steps": int(state["step"].item())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

        def tensor(value: Any) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float32, device=self.device).clone()

        moments = {name: tensor(state[name]) for name in self.moments}
        self._optimizer.state[self.flat] = {"step": tensor(float(state["steps"])), **moments}


class NumpyDescent:
    """Clips and follows gradients that were written into `gradients`, or into the module's own `grad`."""

    def __init__(
        self,
        module: nn.Module,
        primitives: Primitives,
        *,
        max_grad_norm: float | None,
        optimizer: str,
        eps: float,
        rates: Tensor | None = None,
    ) -> None:
        flat, gradients = flatten_parameters(module)
        self.flat: Array = flat.numpy()
        self.gradients: Array = gradients.numpy()
        self.moments = MOMENTS[optimizer]
        self._max_grad_norm = max_grad_norm
        self._shared: SharedParameters | None = None
        self._push: Push | None = None
        self._source: Array | None = None
        self._rates = None if rates is None else rates.numpy()
        self._clip_global_norm = primitives.clip_global_norm
        self.optimizer, self._moments = primitives.make_optimizer(optimizer, len(self.flat), eps)

    def step(self, learning_rate: float) -> float:
        """Moves the parameters and uses up the gradients; returns their norm before clipping."""
        ranks.mean_(self.gradients)
        norm = self._clip_global_norm(self.gradients, self._max_grad_norm)
        if self._push is not None:
            self._push(self.gradients, learning_rate)
        elif self._shared is None:
            before = None if self._rates is None else self.flat.copy()
            self.optimizer.step(self.flat, self.gradients, learning_rate)
            if before is not None:
                self.flat[:] = before + self._rates * (self.flat - before)
        else:
            self.optimizer.steps = int(self._updates.sum())
            self.optimizer.step(self._moved, self.gradients, learning_rate)
            self._updates[self._worker] += 1
        return norm

    def share(self, shared: SharedParameters, worker: int) -> None:
        self._shared, self._worker = shared, worker
        self._moved, self._updates, self._moments = shared.parameters, shared.updates, shared.moments
        self._source = self._moved
        for name, moment in self._moments.items():
            setattr(self.optimizer, name, moment)

    def send(self, push: Push, parameters: Array) -> None:
        self._push, self._source = push, parameters

    def pull(self) -> None:
        if self._source is not None:
            self.flat[:] = self._source

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's moments by name, and its steps: the same as `TorchDescent`'s."""
        return {**{name: array.copy() for name, array in self._moments.items()}, "steps": self.optimizer.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for name, array in self._moments.items():
            array[:] = state[name]
        self.optimizer.steps = int(state["steps"])
