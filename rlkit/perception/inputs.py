"""Preparation of stored samples for a network: to floats, resized, augmented in training, normalised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_choice, check_range, unknown
from rlkit.perception.data.samples import Data

SCALES = ("auto", "unit", "signed", "standardize", "none")


class Inputs(nn.Module):
    """The stage in front of every model, which has nothing to learn. `describe` is saved beside the model's weights.

    Inputs become (inputs − mean) / std, per channel or column; with an empty `mean` they keep their values. Results
    beyond ± `limits`, if there are any, become the limit. `resize` is the new height and width of images. `augment`
    maps names to strengths as `augmentation` takes them, and works in training mode only. Raises RlkitError for a
    standard deviation that is not greater than 0.
    """

    def __init__(
        self,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        limits: Sequence[float] = (),
        *,
        resize: int | None = None,
        augment: Mapping[str, float] = {},
    ) -> None:
        super().__init__()
        if not all(value > 0 for value in std) or len(std) != len(mean) or len(limits) not in (0, len(mean)):
            raise RlkitError(
                f"inputs cannot be scaled by mean={list(mean)}, std={list(std)}, limits={list(limits)}: expected as "
                "many of each, or no limits, and std greater than 0: 1 where values are constant"
            )
        self.mean: Tensor
        self.std: Tensor
        self.limits: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.register_buffer("limits", torch.tensor(limits), persistent=False)
        self.resize = resize
        self.augment = nn.Sequential(*(augmentation(name, amount) for name, amount in augment.items()))

    def describe(self) -> dict[str, Any]:
        """Returns the constructor's arguments for JSON, without `augment`, which only training needs."""
        limits = {"limits": self.limits.tolist()} if len(self.limits) else {}
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "resize": self.resize, **limits}

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the prepared inputs: (batch, …) -> (batch, …).

        Bytes become floats from 0 to 1 before anything else; other integers are the numbers of words and stay so.
        """
        if inputs.dtype == torch.uint8:
            inputs = inputs.float() / 255
        if not inputs.is_floating_point():
            return inputs
        if self.resize is not None:
            size = (self.resize, self.resize)
            inputs = functional.interpolate(inputs, size, mode="bilinear", align_corners=False, antialias=True)
        if self.training and len(self.augment):
            inputs = self.augment(inputs)
        if len(self.mean):
            shape = (1, -1, *[1] * (inputs.dim() - 2))  # per channel, or per column
            inputs = (inputs - self.mean.view(shape)) / self.std.view(shape)
            if len(self.limits):
                inputs = inputs.clamp(-self.limits.view(shape), self.limits.view(shape))
        return inputs


def make_inputs(data: Data, *, scale: str, resize: int | None, augment: Mapping[str, float]) -> Inputs:
    """Makes the input stage for a data set; raises RlkitError for fields that do not suit its inputs.

    `scale=auto` standardises if the data set has a mean and a standard deviation.
    """
    check_choice("scale", scale, SCALES)
    check_range("resize", resize, 1)
    images = len(data.input_shape) == 3
    if augment and not images:
        raise RlkitError(
            f"augment={dict(augment)} is for images: this data set's inputs are of shape {data.input_shape}"
        )
    if resize is not None and not images:
        raise RlkitError(f"resize={resize} is for images: this data set's inputs are of shape {data.input_shape}")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    limits: tuple[float, ...] = ()
    if scale == "signed":
        mean, std = (0.5,), (0.5,)
    elif scale in ("auto", "standardize"):
        if scale == "standardize" and not data.mean:
            raise RlkitError("scale=standardize: this data set's inputs cannot be standardised")
        mean, std, limits = data.mean, data.std, data.limits
    return Inputs(mean, std, limits, resize=resize, augment=augment)


def augmentation(name: str, amount: float) -> nn.Module:
    """Makes one random transformation of images by name and strength; raises RlkitError for an unknown name.

    | name | amount |
    |---|---|
    | `flip`, `flip_vertical` | the probability of a mirror image |
    | `crop` | pixels of padding on each side, before the original size is cut out at a random place |
    | `rotate` | the largest angle, in degrees |
    | `rotate90` | the probability of one to three quarter turns |
    | `erase` | the probability of a grey rectangle |
    | `color` | how much brightness and contrast change |
    | `noise` | the standard deviation of Gaussian noise |
    """
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    check_range(f"augment.{name}", amount, 0)
    if name in PROBABILITIES:
        check_range(f"augment.{name}", amount, 0, 1)
    return AUGMENTATIONS[name](amount)


def _kornia(name: str, *args: Any, **fields: Any) -> nn.Module:
    import kornia.augmentation

    transformation: nn.Module = getattr(kornia.augmentation, name)(*args, **fields)
    return transformation


class Crop(nn.Module):
    """Pads every side with `padding` zeros and cuts the original size out, at a random place for each image.

    Kornia's RandomCrop resamples the images, which takes far longer.
    """

    def __init__(self, padding: float) -> None:
        super().__init__()
        self.padding = int(padding)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the cropped images: (batch, channels, height, width), of the shape they had."""
        batch, channels, height, width = images.shape
        padded = functional.pad(images, [self.padding] * 4)
        corner = torch.randint(2 * self.padding + 1, (2, batch, 1, 1), device=images.device)
        rows = (corner[0] + torch.arange(height, device=images.device).view(1, -1, 1)).expand(batch, height, width)
        columns = (corner[1] + torch.arange(width, device=images.device).view(1, 1, -1)).expand(batch, height, width)
        flat = (rows * padded.shape[3] + columns).view(batch, 1, -1).expand(-1, channels, -1)
        return padded.flatten(2).gather(2, flat).view(images.shape)


AUGMENTATIONS: dict[str, Callable[[float], nn.Module]] = {
    "flip": lambda p: _kornia("RandomHorizontalFlip", p=p),
    "flip_vertical": lambda p: _kornia("RandomVerticalFlip", p=p),
    "crop": Crop,
    "rotate": lambda degrees: _kornia("RandomRotation", degrees, p=1.0),
    "rotate90": lambda p: _kornia("RandomRotation90", times=(1, 3), p=p),
    "erase": lambda p: _kornia("RandomErasing", value=0.5, p=p),
    "color": lambda amount: _kornia("ColorJiggle", brightness=amount, contrast=amount, p=1.0),
    "noise": lambda std: _kornia("RandomGaussianNoise", std=std, p=1.0),
}
PROBABILITIES = ("flip", "flip_vertical", "rotate90", "erase")
