"""First layers of every network: an encoder for each image of an observation, or a module of the user's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.networks.backbone import make_backbone
from rlkit.networks.features import ObsFeatures, backbone_encoder, image_shape, pixel_scaling
from rlkit.networks.mlp import HIDDEN_GAIN, initialized
from rlkit.networks.own import LeafFeatures, OwnEncoder, make_own
from rlkit.networks.shards import encoded
from rlkit.setting import NetworkConfig

if TYPE_CHECKING:
    from rlkit.perception.backbone import Backbone

MAX_FLOAT32_IMAGES = 16
"""Largest batch that stays in float32 on the CPU: converting the weights to bfloat16 takes longer than it saves."""

LARGE_IMAGE = 36
"""Height and width in pixels below which the network of Mnih et al. (2015) would stride an image down to nothing."""


class Convolution(NamedTuple):
    """The arguments of a convolution, all but its input's channels."""

    outputs: int
    kernel: int
    strides: tuple[int, int]
    padding: int


MNIH = [Convolution(32, 8, (4, 4), 0), Convolution(64, 4, (2, 2), 0), Convolution(64, 3, (1, 1), 0)]
"""The convolutions of Mnih et al. (2015), for images of 84x84."""
TWO_LAYERS = [Convolution(32, 3, (1, 1), 1), Convolution(64, 3, (2, 2), 1)]
"""The convolutions that small images had in agents of format 3 and earlier."""


def make_encoders(
    space: spaces.Space[Any], config: NetworkConfig, generator: torch.Generator
) -> tuple[ObsFeatures | LeafFeatures, ImageEncoders | OwnEncoder]:
    """Makes both parts of a network's encoder: fixed features of observations, and the first layers that learn.

    A frozen backbone belongs to the features, since they are computed once and stored. A backbone that is tuned, or a
    module of the user's own, belongs to the layers. Raises RlkitError if it does not fit the observation space.
    """
    config.validate()
    if config.module is not None:
        return make_own(space, config, generator)
    backbone = make_backbone(config)
    frozen = backbone if config.freeze_backbone else None
    features = ObsFeatures(
        space, encoder=config.encoder, scale=config.scale_obs, normalize=config.normalize_obs, backbone=frozen
    )
    if backbone and not (features.images or features.encoded):
        hint = "; network.encoder=auto would look for some" if config.encoder == "mlp" else ""
        raise RlkitError(f"network.backbone={config.backbone} takes images, and there are none in {space}{hint}")
    return features, ImageEncoders(features, config, generator, None if frozen else backbone)


class ImageEncoders(nn.ModuleList):
    """Encodes `ObsFeatures`' output as one (batch, num_outputs) tensor; without images that is the vector itself.

    Each image has a CNN of its own, or all images share one `backbone`. Images and filters have their channels last in
    memory, because convolutions are faster with that layout.
    """

    def __init__(
        self,
        features: ObsFeatures,
        config: NetworkConfig,
        generator: torch.Generator,
        backbone: Backbone | None = None,
    ) -> None:
        images = [features.leaves[i] for i in features.images]
        made: list[tuple[nn.Module, int]] = []
        for space in images:
            tuned = backbone_encoder(backbone, space) if backbone else None
            made.append((tuned, tuned.num_outputs) if tuned else cnn(image_shape(space), config, generator))
        super().__init__(encoder for encoder, _ in made)
        self.num_outputs = features.vector_size + sum(size for _, size in made)
        by_bounds = config.scale_obs and backbone is None  # which knows bytes by their type
        self._scalings = [pixel_scaling(space, by_bounds=by_bounds) for space in images]
        self.ends_in_hidden_layer = bool(images) and backbone is None and not (len(images) > 1 or features.has_vector)
        """True for one of our CNNs alone, whose last layer is a hidden one: nothing needs to be put together."""
        self._in_shards = backbone is None  # which may look at a batch as a whole
        self._amp, self._mixed = config.amp, False

    @property
    def convolutional(self) -> bool:
        """True if there are convolutions, which make a GPU worthwhile."""
        return len(self) > 0

    @property
    def only_torch(self) -> str | None:
        """The reason why only torch can compute this encoder; None without images, when there is nothing to compute."""
        return "the network encodes images" if len(self) else None

    def on(self, device: str) -> None:
        """Prepares for the parameters' device, `cpu` or `cuda`: settles on a precision and a memory layout.

        The precision is that of `network.amp`, whose `auto` depends on the device.
        """
        has_bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self._mixed = self._amp == "bfloat16" or (self._amp == "auto" and has_bfloat16)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Encodes `features`, the vector if there is one and then each image, as a (batch, num_outputs) tensor."""
        vector, images = features[: len(features) - len(self)], features[len(features) - len(self) :]
        encodings = []
        for net, image, (offset, scale) in zip(self, images, self._scalings, strict=True):
            numbers = image.to(torch.float32)
            numbers = (numbers - offset if offset else numbers) / scale
            # First the type, then the layout: doing both in one step takes twice as long as one after the other.
            pixels = numbers.contiguous(memory_format=torch.channels_last)
            mixed = self._mixed and (image.is_cuda or len(image) > MAX_FLOAT32_IMAGES)
            with torch.autocast(image.device.type, torch.bfloat16) if mixed else nullcontext():
                encodings.append((encoded(net, pixels) if self._in_shards else net(pixels)).float())
        parts = [*vector, *encodings]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def cnn(shape: tuple[int, int, int], config: NetworkConfig, generator: torch.Generator) -> tuple[nn.Sequential, int]:
    """Makes a CNN for images of `shape`, (channels, height, width); also returns the size of its output.

    The network is the one that `config.encoder` names; `auto` and `cnn` choose it by the images' size.
    """
    channels, *sides = shape
    if min(sides) >= LARGE_IMAGE and config.encoder != "minatar":
        convolutions, units = MNIH, 512
    elif config.encoder.endswith("_v1"):
        convolutions, units = TWO_LAYERS, 512
    else:
        convolutions, units = minatar(sides), 128
    layers: list[nn.Module] = []
    for outputs, kernel, strides, padding in convolutions:
        convolution = nn.Conv2d(channels, outputs, kernel, strides, padding)
        layers += [initialized(convolution, config.initialization, HIDDEN_GAIN, generator), nn.ReLU()]
        sides = [(side + 2 * padding - kernel) // stride + 1 for side, stride in zip(sides, strides, strict=True)]
        channels = outputs
    units = units if config.cnn_features is None else config.cnn_features
    linear = nn.Linear(channels * sides[0] * sides[1], units)
    layers[-1:] = [nn.Flatten(), nn.ReLU()]
    layers += [initialized(linear, config.initialization, HIDDEN_GAIN, generator), nn.ReLU()]
    return nn.Sequential(*layers), units


def minatar(sides: Sequence[int]) -> list[Convolution]:
    """Returns the convolutions of MinAtar's network (Young and Tian 2019), and more of them for larger images.

    Its one layer of 16 filters is for images of 10x10. As long as a side has more than 10 pixels after it, a further
    layer of 32 filters halves it, so that the dense layer behind them does not grow with the images.
    """
    padding = int(min(sides) < 3)  # without it, nothing would be left of such an image
    convolutions, sides = [Convolution(16, 3, (1, 1), padding)], [side + 2 * padding - 2 for side in sides]
    while max(sides) > 10:
        height, width = (2 if side > 10 else 1 for side in sides)
        convolutions.append(Convolution(32, 3, (height, width), 1))
        sides = [math.ceil(sides[0] / height), math.ceil(sides[1] / width)]
    return convolutions
