"""An agent as one torch module from observations to actions, as it acts when it is evaluated.

What agents do in NumPy around their networks stands here once more in torch, so that it can become part of a graph:
features of observations, their normalisation, and the choice of the action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.agents.base import Agent
from rlkit.errors import RlkitError
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.features import ObsFeatures, image_shape
from rlkit.networks.heads import LOG_STD_LIMITS, Bernoulli, Categorical, Gaussian
from rlkit.networks.normalization import CLIP
from rlkit.networks.own import LeafFeatures
from rlkit.networks.q_network import QNetwork, action_values
from rlkit.spaces import Array, leaf_spaces

SIGNED = {"uint16": np.dtype("int64"), "uint32": np.dtype("int64"), "uint64": np.dtype("int64")}
"""Types that few runtimes compute with, and those that take their place in the graph."""


class AgentGraph(nn.Module):
    """Maps the leaves of a batch of observations to actions, and to what they were chosen by.

    `names` are those of the outputs: `action`, and then `logits`, or `mean` and `log_std`, and `value`; or `q_values`.
    """

    def __init__(self, agent: Agent[Any]) -> None:
        """Takes the agent's network, on the CPU; raises RlkitError for an agent that has none."""
        super().__init__()
        networks = [part for part in agent.model.modules() if isinstance(part, ActorCritic | QNetwork)]
        if not networks:
            raise RlkitError(f"agent={agent.config.name} has no network but a table: there is no graph to write")
        self.network = networks[0].cpu().eval()
        self.space, self.actions = agent.observation_space, agent.action_space
        self.leaves = leaf_spaces(self.space)
        features = self.network.features
        if isinstance(features, ObsFeatures):
            self.features: nn.Module = FeatureGraph(features)
        else:
            self.features = LeafGraph(features)
        self.eval()

    @property
    def input_names(self) -> list[str]:
        """One name for each leaf of the observation: `obs`, or `obs.` and its key."""
        return leaf_names(self.space, "obs")

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        if isinstance(self.network, QNetwork):
            return ["action", "q_values"]
        params = ["mean", "log_std"] if isinstance(self.network.head, Gaussian) else ["logits"]
        return ["action", *params, "value"]

    def inputs(self, obs: Sequence[Array]) -> tuple[Tensor, ...]:
        """Returns the graph's inputs of the leaves of a batch of observations."""
        return tuple(torch.from_numpy(leaf.astype(SIGNED.get(leaf.dtype.name, leaf.dtype))) for leaf in obs)

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs, (batch, …) each."""
        trunk = self.network.cnns(self.features(leaves))
        if isinstance(self.network, QNetwork):
            values = _q_values(self.network, trunk)
            return self._chosen(values.argmax(1)), values
        outputs, value = self.network.actor(trunk), self.network.critic(trunk)[:, 0]
        if isinstance(self.network.head, Gaussian):
            mean, log_std = _gaussian(self.network, outputs)
            return self._bounded(mean), mean, log_std, value
        return self._chosen(_mode(self.network.head, outputs)), outputs, value

    def chosen(self, numbers: Array) -> Array:
        """Returns the actions that an agent takes by action values or logits, by its own code."""
        if isinstance(self.network, QNetwork):
            return numbers.argmax(1) + self.actions.start  # type: ignore[attr-defined, no-any-return]
        return self.network.head.env_action(self.network.head.mode(numbers))

    def _chosen(self, action: Tensor) -> Tensor:
        """Returns discrete actions as elements of the environment's space: (batch, *shape)."""
        start = np.asarray(getattr(self.actions, "start", 0))
        shaped = action.reshape(-1, *(self.actions.shape or ()))
        return (shaped + torch.from_numpy(start)).to(_torch_dtype(self.actions.dtype))

    def _bounded(self, mean: Tensor) -> Tensor:
        """Returns the mean as an element of a Box: squashed or clipped to the bounds."""
        space = self.actions
        assert isinstance(space, spaces.Box)
        assert isinstance(self.network, ActorCritic)
        assert isinstance(self.network.head, Gaussian)
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        shaped = mean.reshape(-1, *space.shape)
        if self.network.head.squash:
            shaped = low + (shaped.tanh() + 1) / 2 * (high - low)
        return shaped.to(low.dtype).maximum(low).minimum(high)


def leaf_names(space: spaces.Space[Any], name: str) -> list[str]:
    """Names the leaves of a space by their keys, or by their places in a tuple."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in leaf_names(part, f"{name}.{key}")]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, part in enumerate(space.spaces) for leaf in leaf_names(part, f"{name}.{i}")]
    return [name]


def _torch_dtype(dtype: Any) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, dtype)).dtype


# Outputs


def _q_values(network: QNetwork, trunk: Tensor) -> Tensor:
    outputs: Tensor = network.body(trunk)
    if network.atoms is None:
        plain: Tensor = action_values(outputs, network.dueling)
        return plain
    by_atom = outputs.reshape(-1, outputs.shape[1] // len(network.atoms), len(network.atoms))
    logits: Tensor = action_values(by_atom, network.dueling)
    return logits.softmax(2) @ network.atoms


def _gaussian(network: ActorCritic, outputs: Tensor) -> tuple[Tensor, Tensor]:
    head = network.head
    assert isinstance(head, Gaussian)
    if network.log_std is not None:
        return outputs, network.log_std.expand_as(outputs)
    mean, log_std = outputs[:, : head.num_actions], outputs[:, head.num_actions :]
    return mean, (log_std + head.log_std_init).clamp(*LOG_STD_LIMITS)


def _mode(head: Any, logits: Tensor) -> Tensor:
    """Returns the most likely of discrete actions, or of bits."""
    if isinstance(head, Bernoulli):
        return logits > 0
    assert isinstance(head, Categorical)
    if not head.multi:
        return logits.argmax(1)
    return torch.stack([part.argmax(1) for part in torch.split(logits, head.sizes, 1)], 1)


# Features


class FeatureGraph(nn.Module):
    """`ObsFeatures` in torch: the vector of features, and the images with their channels first."""

    def __init__(self, features: ObsFeatures) -> None:
        super().__init__()
        self.parts = features

    def forward(self, obs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the vector, if there is one, and then each image."""
        parts = self.parts
        images = [_channels_first(obs[i], parts.leaves[i]) for i in parts.images]
        if not parts.has_vector:
            return tuple(images)
        vectors = [self._vector(obs[i], i) for i in parts.vectors]
        for i, encoder in zip(parts.encoded, parts.encoders, strict=True):
            vectors.append(encoder(_channels_first(obs[i], parts.leaves[i])).float())
        vector = torch.cat(vectors, 1) if len(vectors) > 1 else vectors[0]
        if parts.statistics is not None:
            mean, std = map(torch.from_numpy, parts.statistics.mean_and_std())
            whitened = ((vector - mean) / std).clamp(-CLIP, CLIP)
            vector = torch.where(torch.from_numpy(parts.whitened), whitened, vector)
        return (vector, *images)

    def _vector(self, leaf: Tensor, i: int) -> Tensor:
        space = self.parts.leaves[i]
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            sizes = np.ravel(space.nvec) if isinstance(space, spaces.MultiDiscrete) else np.array([space.n])
            counted = (leaf.long() - torch.from_numpy(np.asarray(space.start)).long()).reshape(-1, len(sizes))
            return torch.cat([_one_hot(counted[:, j], int(size)) for j, size in enumerate(sizes)], 1)
        rows = leaf.reshape(-1, int(np.prod(space.shape or ())))
        if (scaling := self.parts.scalings.get(i)) is not None:
            exact = rows.double() if leaf.dtype in (torch.float64, torch.int32, torch.int64) else rows.float()
            rows = (exact - torch.from_numpy(scaling.offset)) / torch.from_numpy(scaling.scale)
        return rows.float()


class LeafGraph(nn.Module):
    """`LeafFeatures` in torch: the leaves for a network of the user's own."""

    def __init__(self, features: LeafFeatures) -> None:
        super().__init__()
        self.parts = features

    def forward(self, obs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns one tensor for each leaf: (batch, *shape)."""
        parts = [self._part(leaf, i) for i, leaf in enumerate(obs)]
        if self.parts.statistics is not None:
            mean, std = map(torch.from_numpy, self.parts.statistics.mean_and_std())
            start = 0
            for i, size in zip(self.parts.whitened, self.parts.sizes, strict=True):
                shape = self.parts.leaves[i].shape or ()
                m, s = (each[start : start + size].reshape(shape) for each in (mean, std))
                parts[i] = ((parts[i] - m) / s).clamp(-CLIP, CLIP)
                start += size
        return tuple(parts)

    def _part(self, leaf: Tensor, i: int) -> Tensor:
        space = self.parts.leaves[i]
        if i in self.parts.images:
            return leaf
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            return leaf.long() - torch.from_numpy(np.asarray(space.start)).long()
        return leaf.float()


def _one_hot(indices: Tensor, size: int) -> Tensor:
    return (indices[:, None] == torch.arange(size)).float()


def _channels_first(leaf: Tensor, space: spaces.Space[Any]) -> Tensor:
    shape = space.shape or ()
    if len(shape) >= 3 and shape[-1] < shape[-3]:
        last = leaf.dim() - 1  # ONNX knows no negative dimensions here
        leaf = leaf.transpose(last, last - 1).transpose(last - 1, last - 2)
    return leaf.reshape(-1, *image_shape(space))
