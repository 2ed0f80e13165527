"""The names of a policy's tensors at SB3, and which of ours they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.features import ObsFeatures
from rlkit.networks.q_network import QNetwork
from rlkit.spaces import Array

if TYPE_CHECKING:
    from rlkit.networks.encoders import ImageEncoders

CNN_LAYERS = {0: "cnn.0", 2: "cnn.2", 4: "cnn.4", 7: "linear.0"}
"""The layers of our CNN, by their place in it, and their names in SB3's NatureCNN."""
COPIES = {
    "pi_features_extractor.": "features_extractor.",
    "vf_features_extractor.": "features_extractor.",
    "q_net_target.": "q_net.",
}
"""Beginnings of the names of tensors that are others once more, and of those others."""


class Correspondence:
    """The tensors of a network of ours and of a policy of SB3's, of the same layers.

    A Dict's parts stand in another order: ours are the vectors and then the images, SB3's are in the order of the keys.
    So the columns of the first linear layers are moved.
    """

    def __init__(self, network: ActorCritic | QNetwork, space: spaces.Space[Any]) -> None:
        assert isinstance(network.features, ObsFeatures)
        self.names = dict(_names(network, _image_keys(network.features, space)))
        """Our names, and SB3's."""
        self._columns = _columns(network, space)
        self._moved = {f"{body}.0.weight" for body in ("actor", "critic", "body")}

    def ours(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns our tensors of SB3's; raises KeyError for one that is missing."""
        tensors = {ours: theirs[name] for ours, name in self.names.items()}
        return {name: tensor[:, self._columns] if name in self._moved else tensor for name, tensor in tensors.items()}

    def theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns SB3's tensors of ours."""
        order = np.argsort(self._columns)
        return {
            theirs: ours[name][:, order] if name in self._moved else ours[name] for name, theirs in self.names.items()
        }


def _image_keys(features: ObsFeatures, space: spaces.Space[Any]) -> list[str]:
    """Returns what SB3 puts before the names of each image's CNN."""
    if not isinstance(space, spaces.Dict):
        return ["features_extractor."] * len(features.images)
    keys = list(space.spaces)
    return [f"features_extractor.extractors.{keys[i]}." for i in features.images]


def _names(network: ActorCritic | QNetwork, images: list[str]) -> Iterator[tuple[str, str]]:
    """Yields our name of each tensor that learns, and SB3's."""
    prefix = "q_net." if isinstance(network, QNetwork) else ""
    for i, image in enumerate(images):
        for layer, name in CNN_LAYERS.items():
            yield from _of_layer(f"cnns.{i}.{layer}", f"{prefix}{image}{name}")
    if isinstance(network, QNetwork):
        for layer in _linear_layers(network.body):
            yield from _of_layer(f"body.{layer}", f"q_net.q_net.{layer}")
        return
    for ours, module, hidden, output in (
        ("actor", network.actor, "mlp_extractor.policy_net", "action_net"),
        ("critic", network.critic, "mlp_extractor.value_net", "value_net"),
    ):
        *inner, last = _linear_layers(module)
        for layer in inner:
            yield from _of_layer(f"{ours}.{layer}", f"{hidden}.{layer}")
        yield from _of_layer(f"{ours}.{last}", output)
    if network.log_std is not None:
        yield "log_std", "log_std"


def _of_layer(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for part in ("weight", "bias"):
        yield f"{ours}.{part}", f"{theirs}.{part}"


def _linear_layers(module: nn.Sequential) -> list[int]:
    return [i for i, layer in enumerate(module) if isinstance(layer, nn.Linear)]


def _columns(network: ActorCritic | QNetwork, space: spaces.Space[Any]) -> Array:
    """Returns the place among SB3's features of each of ours: (number of features,)."""
    features: ObsFeatures = network.features  # type: ignore[assignment]
    encoders: ImageEncoders = network.cnns  # type: ignore[assignment]
    images = encoders.num_outputs - features.vector_size
    sizes = [
        images // len(features.images) if i in features.images else spaces.flatdim(leaf)
        for i, leaf in enumerate(features.leaves)
    ]
    starts = np.cumsum([0, *sizes])
    order = [*features.vectors, *features.images]
    return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])


def original(name: str) -> str:
    """Returns SB3's first name of a tensor that it has under several."""
    for copy, first in COPIES.items():
        if name.startswith(copy):
            return first + name.removeprefix(copy)
    return name


def without_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out SB3's target network, and encoders under their second and third name.

    Raises RlkitError if policy and critic have encoders of their own.
    """
    for name, tensor in tensors.items():
        other = tensors.get(original(name))
        if name.startswith("vf_features_extractor.") and (other is None or not torch.equal(tensor, other)):
            raise RlkitError("policy and value have CNNs of their own (share_features_extractor=False): ours share one")
    return {name: tensor for name, tensor in tensors.items() if original(name) == name}
