"""Builds networks and picks the engine that computes them."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.engine.actor_critic import ActorCriticLoss, Engine
from rlkit.engine.descent import Descent, Optimization, Optimizer, rates
from rlkit.engine.native import primitives as native
from rlkit.engine.native.actor_critic import AnalyticEngine, unsupported
from rlkit.engine.native.optimizers import OPTIMIZERS, ArrayOptimizer
from rlkit.engine.native.q import AnalyticQEngine, q_unsupported
from rlkit.engine.q import QEngine, QLoss
from rlkit.engine.torch.actor_critic import TorchEngine
from rlkit.engine.torch.optimizer import TorchOptimizer
from rlkit.engine.torch.q import TorchQEngine
from rlkit.errors import RlkitError
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.own import OwnEncoder
from rlkit.networks.q_network import QNetwork
from rlkit.setting import Setting, check_compute
from rlkit.spaces import Array
from rlkit.system.ranks import Ranks


def make_actor_critic(setting: Setting, seed: np.random.SeedSequence) -> tuple[ActorCritic, str]:
    """The network on its device, and the device that `auto` became: CUDA for CNNs where there is a GPU, else the CPU.

    Raises RlkitError for spaces that no network can handle, and for a GPU that is not there.
    """
    spaces = setting.observation_space, setting.action_space
    network = ActorCritic(*spaces, setting.network, seeded_generator(seed))
    return network, place(network, setting)


def make_q_network(
    setting: Setting,
    num_actions: int,
    seed: np.random.SeedSequence,
    *,
    dueling: str = "none",
    noisy_std: float | None = None,
    atoms: Array | None = None,
) -> tuple[QNetwork, str]:
    """The Q-network on its device, and the device that `auto` became; raises RlkitError as `make_actor_critic` does."""
    generator = seeded_generator(seed)
    network = QNetwork(
        setting.observation_space, num_actions, setting.network, generator, dueling, noisy_std=noisy_std, atoms=atoms
    )
    return network, place(network, setting)


def place(network: ActorCritic | QNetwork, setting: Setting) -> str:
    """Moves the network to its device, and returns the device that `auto` became.

    Raises RlkitError where there is no GPU.
    """
    device = setting.device
    if device == "auto":
        convolutional = network.cnns.convolutional or len(network.features.encoders)
        device = "cuda" if convolutional and torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise RlkitError("device=cuda, but torch finds no CUDA device here; device=auto or device=cpu would work")
    network.to(setting.ranks.gpu() if device == "cuda" else device)
    network.cnns.on(device)
    if network.features.statistics is not None:
        network.features.statistics.cpu()  # observations are normalised before they go to the device
    return device


def seeded_generator(seed: np.random.SeedSequence) -> torch.Generator:
    """Torch's generator for initial weights, so that they depend on nothing else in the process."""
    return torch.Generator().manual_seed(int(seed.generate_state(1)[0]))


def make_model(**parts: nn.Module | None) -> nn.ModuleDict:
    """All that a saved model holds, under the names of its parts; None leaves a part out."""
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


def make_engine(
    network: ActorCritic, loss: ActorCriticLoss, optimization: Optimization, setting: Setting
) -> tuple[Engine, str]:
    """The engine for a network that is already on its device, and the one that `compute=auto` became.

    Raises RlkitError where the `compute` asked for cannot be.
    """
    critic_rate = optimization.critic_rate
    multiples = None if critic_rate == 1 else rates(network, network.critic, critic_rate)
    compute = chosen(setting, network, unsupported(network), has_native_loss=loss.native is not None)
    if loss.native is None or compute in AUTOGRAD:
        descent = torch_descent(network, optimization, setting.ranks, multiples)
        compiled, recorded = compute == "compile", compute in RECORDED and on_gpu(network)
        return TorchEngine(network, loss.torch, descent, compiled=compiled, recorded=recorded), compute
    array_descent = analytic_descent(network, optimization, setting.ranks, multiples)
    return AnalyticEngine(network, loss.native, array_descent), compute


def make_q_engine(network: QNetwork, loss: QLoss, optimization: Optimization, setting: Setting) -> tuple[QEngine, str]:
    """The engine for a Q-network and its target network, and the one that `compute=auto` became.

    Raises RlkitError where the `compute` asked for cannot be.
    """
    target = copy.deepcopy(network)
    compute = chosen(setting, network, q_unsupported(network), has_native_loss=loss.native is not None)
    if loss.native is None or compute in AUTOGRAD:
        descent = torch_descent(network, optimization, setting.ranks)
        compiled, recorded = compute == "compile", compute in RECORDED and on_gpu(network)
        return TorchQEngine(network, target, loss.torch, descent, compiled=compiled, recorded=recorded), compute
    array_descent = analytic_descent(network, optimization, setting.ranks)
    return AnalyticQEngine(network, target, loss.native, array_descent), compute


def torch_descent(
    module: nn.Module, optimization: Optimization, ranks: Ranks, rates: Tensor | None = None
) -> Descent[Tensor]:
    """Gradient descent by torch's optimisers; `rates` are those of `rlkit.engine.descent.rates`."""

    def make_optimizer(flat: Tensor, gradients: Tensor) -> TorchOptimizer:
        return TorchOptimizer(optimization.optimizer, flat, gradients, eps=optimization.eps, rates=rates)

    return Descent(module, make_optimizer, optimization.max_grad_norm, ranks)


def analytic_descent(
    module: nn.Module, optimization: Optimization, ranks: Ranks, rates: Tensor | None = None
) -> Descent[float]:
    """Gradient descent by the optimisers in C, on the memory of the module's parameters."""
    multiples = None if rates is None else rates.numpy()

    def make_optimizer(flat: Tensor, gradients: Tensor) -> ArrayOptimizer:
        kind = OPTIMIZERS[optimization.optimizer]
        return kind(flat.numpy(), gradients.numpy(), eps=optimization.eps, rates=multiples)

    return Descent(module, make_optimizer, optimization.max_grad_norm, ranks)


def array_optimizer(name: str, parameters: Array, gradients: Array, *, eps: float) -> Optimizer[Any]:
    """An optimiser on flat arrays: in C where the C engine can be used, else torch's."""
    if native.missing is None:
        return OPTIMIZERS[name](parameters, gradients, eps=eps)
    return TorchOptimizer(name, torch.from_numpy(parameters), torch.from_numpy(gradients), eps=eps)


AUTOGRAD = ("torch", "compile", "cudagraph")
RECORDED = ("compile", "cudagraph")
"""Engines whose work on a GPU is recorded as CUDA graphs."""


def chosen(setting: Setting, network: nn.Module, reason: str | None, *, has_native_loss: bool = True) -> str:
    """The engine that `setting.compute` becomes for a network that only torch can compute if there is a `reason`.

    Without a native form of the loss, only torch can compute it. Raises RlkitError where the engine that was asked for
    cannot be.
    """
    compute, gpu = setting.compute, on_gpu(network)
    check_compute(compute)
    if compute in ("auto", "native") and native.refused:
        raise RlkitError(f"{native.refused}; without RLKIT_SIMD the widest that there are would be used")
    if not has_native_loss:
        reason = reason or "the loss has no derivatives written out"
    if compute == "auto":
        # A module or a loss of the user's own may depend on more than tensors, so only ours are recorded unasked.
        if (
            gpu
            and has_native_loss
            and setting.ranks.size == 1
            and not any(isinstance(part, OwnEncoder) for part in network.modules())
        ):
            return "cudagraph"
        return "torch" if reason or native.missing else "native"
    if compute == "native" and reason:
        raise RlkitError(f"compute=native cannot be used because {reason}; compute=auto or compute=torch would work")
    if compute == "native" and native.missing:
        raise RlkitError(f"compute=native: {native.missing}; compute=auto or compute=torch would work")
    if compute in RECORDED and setting.ranks.size > 1:
        raise RlkitError(f"compute={compute} does not work under torchrun; compute=auto or compute=torch would")
    if compute == "cudagraph" and not gpu:
        raise RlkitError("compute=cudagraph is for networks on a GPU, and this one is on the CPU; device=cuda would do")
    if compute == "compile" and (sys.platform == "win32" or shutil.which(os.environ.get("CXX", "g++")) is None):
        raise RlkitError("compute=compile needs a C++ compiler, g++ or what CXX says; compute=auto would work")
    return compute


def on_gpu(network: nn.Module) -> bool:
    """Returns True if the network's parameters are in a GPU's memory."""
    return next(network.parameters()).is_cuda


def vector_instructions(compute: str) -> str | None:
    """The vector instructions that the C engine computes with, such as `avx512`; None if another engine computes."""
    return native.simd() if compute == "native" else None


def why_chosen(model: nn.Module) -> str | None:
    """The reason for the engine that `compute=auto` chose for the network in a model; None if it holds no network."""
    for network in model.modules():
        if isinstance(network, ActorCritic | QNetwork):
            reason = unsupported(network) if isinstance(network, ActorCritic) else q_unsupported(network)
            return reason or native.missing or "an MLP, and the C engine was built"
    return None
