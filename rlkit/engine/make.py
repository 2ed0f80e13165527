"""Builds networks and picks the engine that computes them."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlkit.config import NetworkConfig
from rlkit.engine.base import AnalyticLoss, Engine, TorchLoss
from rlkit.engine.flat import rates
from rlkit.engine.native import c_primitives as native
from rlkit.engine.native.actor_critic import NUMPY, NumpyEngine, unsupported
from rlkit.engine.q_engine import AnalyticTDLoss, NumpyQEngine, QEngine, TorchQEngine, TorchTDLoss, q_unsupported
from rlkit.engine.torch.actor_critic import TorchEngine
from rlkit.errors import RlkitError
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.q_network import QNetwork
from rlkit.system import ranks


def make_actor_critic(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    config: NetworkConfig,
    seed: np.random.SeedSequence,
    device: str,
) -> tuple[ActorCritic, str]:
    """The network on its device, and what `device=auto` became: CUDA for CNNs where there is a GPU, else the CPU.

    Raises RlkitError for spaces that no network can handle, and for a GPU that is not there.
    """
    network = ActorCritic(observation_space, action_space, config, seeded_generator(seed))
    return network, place(network, device)


def make_q_network(
    observation_space: spaces.Space[Any],
    num_actions: int,
    config: NetworkConfig,
    seed: np.random.SeedSequence,
    device: str,
    dueling: str,
    **parts: Any,
) -> tuple[QNetwork, str]:
    """The same for a Q-network; `parts` are those of Rainbow: noisy_std and atoms."""
    network = QNetwork(observation_space, num_actions, config, seeded_generator(seed), dueling, **parts)
    return network, place(network, device)


def place(network: ActorCritic | QNetwork, device: str) -> str:
    """Moves the network to its device, and says what `device=auto` became; raises RlkitError if there is no GPU."""
    if device == "auto":
        convolutional = network.cnns.convolutional or len(network.features.encoders)
        device = "cuda" if convolutional and torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise RlkitError("device=cuda, but torch finds no CUDA device here; device=auto or device=cpu would work")
    network.to(ranks.gpu() if device == "cuda" else device)
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
    network: ActorCritic,
    compute: str,
    torch_loss: TorchLoss,
    analytic_loss: AnalyticLoss,
    max_grad_norm: float | None,
    eps: float,
    optimizer: str = "adam",
    critic_rate: float = 1.0,
) -> tuple[Engine, str]:
    """The engine for a network that is already on its device, and what `compute=auto` became.

    `optimizer` is `adam` or `rmsprop`, `eps` its ε; `critic_rate` multiplies the learning rate of the critic. Raises
    RlkitError where the `compute` asked for cannot be.
    """
    multiples = None if critic_rate == 1 else rates(network, network.critic, critic_rate)
    descent = {"max_grad_norm": max_grad_norm, "optimizer": optimizer, "eps": eps, "rates": multiples}
    compute = chosen(compute, unsupported(network))
    if compute in AUTOGRAD:
        return TorchEngine(network, torch_loss, compiled=compute == "compile", **descent), compute
    return NumpyEngine(network, analytic_loss, primitives=PRIMITIVES[compute], **descent), compute


def make_q_engine(
    network: QNetwork, compute: str, torch_loss: TorchTDLoss, analytic_loss: AnalyticTDLoss, **descent: Any
) -> tuple[QEngine, str]:
    """The same for a Q-network; `descent` is what its gradient steps take: max_grad_norm, optimizer, eps."""
    compute = chosen(compute, q_unsupported(network))
    if compute in AUTOGRAD:
        return TorchQEngine(network, torch_loss, compiled=compute == "compile", **descent), compute
    return NumpyQEngine(network, analytic_loss, primitives=PRIMITIVES[compute], **descent), compute


PRIMITIVES = {"numpy": NUMPY, "native": native.NATIVE}
AUTOGRAD = ("torch", "compile")


def chosen(compute: str, reason: str | None) -> str:
    """What `compute` becomes for a network that only torch can compute if there is a `reason`.

    Raises RlkitError where what was asked for cannot be.
    """
    if compute == "auto":
        return "torch" if reason else "numpy" if native.missing else "native"
    if compute in PRIMITIVES and reason:
        raise RlkitError(f"compute={compute} cannot be used because {reason}; compute=auto or compute=torch would work")
    if compute == "native" and native.missing:
        raise RlkitError(f"compute=native: {native.missing}; compute=auto or compute=numpy would work")
    if compute == "compile":
        if ranks.size() > 1:
            raise RlkitError("compute=compile does not work under torchrun; compute=auto or compute=torch would")
        if sys.platform == "win32" or shutil.which(os.environ.get("CXX", "g++")) is None:
            raise RlkitError("compute=compile needs a C++ compiler, g++ or what CXX says; compute=auto would work")
    return compute


def why_chosen(model: nn.Module) -> str | None:
    """Why `compute=auto` became what it did for the network in an agent's model; None without such a network."""
    for network in model.modules():
        if isinstance(network, ActorCritic | QNetwork):
            reason = unsupported(network) if isinstance(network, ActorCritic) else q_unsupported(network)
            return reason or native.missing or "an MLP, and the C engine was built"
    return None
