"""Backbones: networks of companion runs that take the place of an agent's CNN, frozen or tuned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.setting import NetworkConfig
from rlkit.spaces import Array

if TYPE_CHECKING:
    from rlkit.perception.backbone import Backbone  # importing it takes time, which only runs with a backbone spend

CHUNK = 256
"""Number of images that are encoded together, so that the activations for a whole rollout need not fit in memory."""


def make_backbone(config: NetworkConfig) -> Backbone | None:
    """Loads the backbone that `config.backbone` names; None without one. Raises RlkitError when it cannot be loaded.

    Parameters that get no gradients become buffers: all parameters of a frozen network, and those of a tuned one's head
    or decoder. They are thus saved with the agent, but no optimiser, engine or worker takes them for parameters. A
    tuned network stays in evaluation mode too: with dropout or the statistics of a batch, the policy that learns would
    differ from the one that acted.
    """
    if config.backbone is None:
        return None
    from rlkit.perception.backbone import Backbone

    try:
        if isinstance(config.backbone, Mapping):
            backbone = Backbone.build(config.backbone)
        else:
            backbone = Backbone.load(str(config.backbone))
    except RlkitError as error:
        raise RlkitError(f"network.backbone: {error}") from error
    if len(backbone.input_shape) != 3:
        what = f"values of shape {list(backbone.input_shape)}" if backbone.input_shape else "texts or points"
        raise RlkitError(f"network.backbone={config.backbone} takes {what}: expected a network of images")
    fixed = list(backbone.parameters())
    if not config.freeze_backbone:
        backbone.unfreeze().eval()
        features = backbone.encode(torch.zeros(1, *backbone.input_shape))
        reached: Sequence[Tensor | None] = torch.autograd.grad(features.sum(), fixed, allow_unused=True)
        fixed = [parameter for parameter, gradient in zip(fixed, reached, strict=True) if gradient is None]
    _make_buffers(backbone, fixed)
    return backbone


def description(network: nn.Module) -> dict[str, Any]:
    """Returns the description from which an agent's backbone is built again: `network.backbone` of a saved agent."""
    encoder = next(module for module in network.modules() if isinstance(module, BackboneEncoder))
    assert encoder.backbone.description is not None, "an agent's backbone has been loaded, or built"
    return dataclasses.asdict(encoder.backbone.description)


class BackboneEncoder(nn.Module):
    """An encoder of image observations by a backbone; each frame of a stack is encoded by itself.

    A stack is an observation of four dimensions, or an image whose channels are a multiple of the backbone's.
    `Backbone.encode` converts between grey and colours, and resizes frames of other sizes.
    """

    def __init__(self, backbone: Backbone, space: spaces.Box, shape: tuple[int, int, int]) -> None:
        """Makes the encoder; `shape` is (channels, height, width), where channels counts those of all frames.

        Raises RlkitError unless the space's images fit the backbone.
        """
        super().__init__()
        self.backbone, self.shape = backbone, shape
        expected, channels = backbone.input_shape[0], shape[0]
        if len(space.shape) == 4:
            self.frames = space.shape[0]
        else:
            whole = channels in (1, 3, expected) or channels % expected
            self.frames = 1 if whole else channels // expected
        each = channels // self.frames
        if not (each in (1, expected) or (each, expected) == (3, 1)):
            raise RlkitError(
                f"network.backbone was trained on images of {expected} channels, and those of {space} have {each}: "
                f"expected {expected}, 1, or a stack of such images"
            )
        if space.dtype != np.uint8 and not (np.all(space.low >= 0) and np.all(space.high <= 1)):
            raise RlkitError(f"network.backbone takes images of bytes, or of numbers from 0 to 1, and not {space}")
        self.num_outputs = self.frames * backbone.feature_size

    def forward(self, images: Tensor) -> Tensor:
        """Returns the features of images, bytes or floats from 0 to 1: (batch, *shape) -> (batch, num_outputs)."""
        features = self.backbone.encode(images.reshape(images.shape[0] * self.frames, -1, *self.shape[1:]))
        return features.reshape(images.shape[0], self.num_outputs)

    def encode(self, images: Array) -> Array:
        """Returns the features of images in a NumPy array, without gradients."""
        device = next(self.backbone.buffers()).device
        with torch.no_grad():
            parts = [self(torch.from_numpy(part).to(device)).cpu() for part in _chunks(images)]
        features: Array = torch.cat(parts).float().numpy()
        return features


def _chunks(images: Array) -> list[Array]:
    return [np.ascontiguousarray(images[start : start + CHUNK]) for start in range(0, max(1, len(images)), CHUNK)]


def _make_buffers(network: nn.Module, parameters: list[nn.Parameter]) -> None:
    chosen = {id(parameter) for parameter in parameters}
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in chosen:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
