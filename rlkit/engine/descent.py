"""Gradient descent on all of a module's parameters at once, as one flat vector.

A step averages the gradient over all ranks, clips it, and hands it to a *sink*. The usual sink is the optimiser of the
module's own parameters; A3C has others, which move parameters in shared memory or send gradients to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.spaces import Array
from rlkit.system.ranks import Ranks

STEPS_BETWEEN_LOOKS = 16
"""Gradient steps between two looks at the module, which take a microsecond or two."""
Norm = TypeVar("Norm")
Norm_co = TypeVar("Norm_co", covariant=True)
Rate: TypeAlias = "float | Tensor"
"""A learning rate; a tensor where it is an input of a CUDA graph."""


@dataclass(frozen=True)
class Optimization:
    """The optimiser, its settings, and the limit of gradients."""

    max_grad_norm: float | None
    """Gradients are scaled down to this global norm; None: not at all."""
    eps: float
    """The optimiser's ε."""
    optimizer: str = "adam"
    """`adam` or `rmsprop`."""
    critic_rate: float = 1.0
    """Multiple of the learning rate for the critic's parameters."""


class Optimizer(Protocol[Norm_co]):
    """Moves flat parameters against their flat gradients, in place; knows both since it was made."""

    steps: int
    """The number of steps taken, for Adam's bias correction."""

    @property
    def moments(self) -> Mapping[str, Array]:
        """The running averages that it keeps of gradients, by torch's names, each (size,) float32."""

    def attach(self, parameters: Array, moments: Mapping[str, Array]) -> None:
        """Switches to these parameters and moments, which other processes may move as well."""

    def clip(self, max_norm: float | None) -> Norm_co:
        """Scales the gradients down to `max_norm` where their norm is larger; returns the norm before."""

    def step(self, learning_rate: Rate) -> None:
        """Moves the parameters; may use up the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Copies of the moments by name, and `steps`."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""


class Sink(Protocol):
    """The place that clipped gradients go to."""

    def follow(self, gradients: Tensor, learning_rate: Rate) -> None:
        """Moves parameters along the gradients, here or elsewhere."""

    def pull(self) -> Array | None:
        """The parameters as they are now, flat, where others move them as well; None where nobody else does."""


class OwnParameters:
    """The sink of an agent that learns alone: the optimiser of its module's parameters."""

    def __init__(self, optimizer: Optimizer[Any]) -> None:
        self._optimizer = optimizer

    def follow(self, gradients: Tensor, learning_rate: Rate) -> None:
        self._optimizer.step(learning_rate)

    def pull(self) -> None:
        return None


class Descent(Generic[Norm]):
    """Steps on a module's parameters along the gradients that an engine has written into `gradients`."""

    def __init__(
        self,
        module: nn.Module,
        make_optimizer: Callable[[Tensor, Tensor], Optimizer[Norm]],
        max_grad_norm: float | None,
        ranks: Ranks,
    ) -> None:
        """`make_optimizer` takes the flat parameters and gradients, views of which the module has from now on."""
        self.flat, self.gradients = flatten_parameters(module)
        self._parts, self._steps = _parts_of(module), 0
        self.optimizer = make_optimizer(self.flat, self.gradients)
        self.sink: Sink = OwnParameters(self.optimizer)
        self._max_grad_norm, self._ranks = max_grad_norm, ranks

    @property
    def recordable(self) -> bool:
        """True if a step is nothing but work on tensors: no other process takes part."""
        return self._ranks.size == 1 and isinstance(self.sink, OwnParameters)

    def step(self, learning_rate: Rate) -> Norm:
        """Hands the gradients to the sink; returns their norm before clipping.

        Raises RlkitError where a part of the module has been replaced, whose parameters would not be trained.
        """
        if self._steps % STEPS_BETWEEN_LOOKS == 0:
            self._check_parts()
        self._steps += 1
        self._ranks.mean_(self.gradients)
        norm = self.optimizer.clip(self._max_grad_norm)
        self.sink.follow(self.gradients, learning_rate)
        return norm

    def _check_parts(self) -> None:
        for owner, name, part in self._parts:
            if owner.get(name) is not part:
                raise RlkitError(
                    f"a part of the network was replaced after the agent was made, '{name}', and would not be trained; "
                    "network.module=package.module:Class makes an agent with a module of your own"
                )

    def pull(self) -> None:
        """Copies the parameters that others move as well, if there are any, into the module."""
        if (parameters := self.sink.pull()) is not None:
            self.flat.copy_(torch.from_numpy(parameters))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.optimizer.load_state_dict(state)


def _parts_of(module: nn.Module) -> list[tuple[dict[str, Any], str, Any]]:
    """Lists all modules and parameters of a module: each with its name, and with the dict of its owner that has it."""
    owners = [owned for part in module.modules() for owned in (part._modules, part._parameters)]
    return [(owner, name, part) for owner in owners for name, part in owner.items()]


def flatten_parameters(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Makes all parameters views of one flat tensor, and their gradients of another; returns the two.

    The module keeps its names, shapes and values, and also its memory layout: filters that have their channels last
    keep them there. `load_state_dict` writes through the views. Moving the module to another device afterwards would
    break them.
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
    """Permutes a parameter's axes into the order of its memory: filters may have their channels last there."""
    return parameter if parameter.is_contiguous() else parameter.permute(0, 2, 3, 1)


def _channels_second(filters: Tensor) -> Tensor:
    return filters.permute(0, 3, 1, 2)


def rates(module: nn.Module, part: nn.Module, rate: float) -> Tensor:
    """Makes factors of the learning rate for each flat parameter: `rate` in `part` of the module, 1 elsewhere."""
    parameters, chosen = list(module.parameters()), {id(p) for p in part.parameters()}
    return torch.cat([torch.full((p.numel(),), rate if id(p) in chosen else 1.0) for p in parameters])
