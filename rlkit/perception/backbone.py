"""A trained network without its head, which turns observations into features for agents and for other networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.perception.checkpoint import Description, build_model, described_by, difference, load_model
from rlkit.perception.inputs import Inputs


class Backbone(nn.Module):
    """A network that maps observations to `feature_size` features by its `encode` method.

    A frozen backbone gets no gradients and stays in evaluation mode: dropout is off and batch normalisation keeps its
    statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs | None = None,
        *,
        frozen: bool = False,
        description: Description | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(model, "encode") or not isinstance(getattr(model, "feature_size", None), int):
            raise RlkitError(f"{type(model).__name__} is no backbone: it has no `encode` and `feature_size`")
        self.model = model
        self.inputs = inputs or Inputs()
        self.description = description
        """Description from which the network can be built again; None unless it comes from a companion run."""
        self.frozen = False
        if frozen:
            self.freeze()

    @classmethod
    def load(cls, path: str | Path, *, frozen: bool = True) -> Backbone:
        """Loads the network of a companion run; `path` is its run folder, a checkpoint folder or a model file.

        Raises RlkitError when there is no model, when it is damaged, or when its network has no `encode`.
        """
        model, inputs, description = load_model(path)
        return cls(model, inputs, frozen=frozen, description=description)

    @classmethod
    def build(cls, description: Mapping[str, Any], *, frozen: bool = True) -> Backbone:
        """Builds a backbone with random weights, into which weights that were saved elsewhere can be loaded.

        `description` has the fields of `Description`. Raises RlkitError when they describe no backbone.
        """
        described = described_by(description, "what describes a companion model")
        return cls(*build_model(described), frozen=frozen, description=described)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the inputs that the network was built for: (channels, height, width) for images, () if unknown."""
        return tuple(getattr(self.model, "input_shape", ()))

    @property
    def feature_size(self) -> int:
        """Number of features that `encode` makes of one observation."""
        size: int = self.model.feature_size  # type: ignore[assignment]
        return size

    def encode(self, obs: Tensor) -> Tensor:
        """Returns the features, (batch, feature_size), of observations (batch, …) like those in the model's data set.

        Images are (batch, channels, height, width), bytes or floats from 0 to 1. They are resized to the size that the
        network was built for. A grey image is repeated in every channel for a network of colour images, and a colour
        image is made grey for a network of grey ones.
        """
        shape = self.input_shape
        if obs.dtype == torch.uint8:
            obs = obs.float() / 255
        if len(shape) == 3 and obs.dim() == 4:
            obs = _fitting(obs, (shape[0], shape[1], shape[2]))
        encode: Any = self.model.encode
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Tensor = encode(self.inputs(obs))
        return features

    forward = encode

    def freeze(self) -> Backbone:
        """Excludes the network from training: no gradients, no dropout, fixed batch statistics."""
        self.frozen = True
        self.model.requires_grad_(False)
        self.eval()
        return self

    def unfreeze(self) -> Backbone:
        """Includes the network in training again: gradients, dropout, batch statistics."""
        self.frozen = False
        self.model.requires_grad_(True)
        self.train()
        return self

    def train(self, mode: bool = True) -> Backbone:
        """Sets training or evaluation mode as for every module, but a frozen backbone stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self


def _fitting(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Returns the images with the channels and the size of `shape`, (channels, height, width)."""
    channels = images.shape[1]
    if channels != shape[0]:
        if channels == 1:
            images = images.expand(-1, shape[0], -1, -1)
        elif shape[0] == 1 and channels == 3:
            weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)  # luma, ITU-R BT.601
            images = (images * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
        else:
            raise RlkitError(f"the backbone was trained on images of {shape[0]} channels, these have {channels}")
    if tuple(images.shape[2:]) != shape[1:]:
        images = nn.functional.interpolate(images, shape[1:], mode="bilinear", align_corners=False, antialias=True)
    return images


def transfer(
    model: nn.Module,
    path: str | Path,
    *,
    freeze: bool,
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> None:
    """Copies all parameters but the head's from the network at `path` into `model`; `freeze` keeps them from training.

    `names` are the vocabulary and the columns of the new data, by which the network's inputs are numbered. Raises
    RlkitError unless both networks are equal but for their heads, and their inputs are numbered alike.
    """
    source, _, description = load_model(path)
    for kind, mine, theirs in zip(
        ("words", "columns"), names, (description.vocabulary, description.columns), strict=True
    ):
        if mine and theirs and mine != theirs:
            raise RlkitError(f"init_from={path} numbers the {kind} of its inputs otherwise: {difference(theirs, mine)}")
    weights, own = source.state_dict(), model.state_dict()
    copied = [name for name in own if not name.startswith("head.")]
    different = [name for name in copied if name not in weights or weights[name].shape != own[name].shape]
    if type(source) is not type(model) or different:
        detail = f": '{different[0]}' differs" if different else ""
        raise RlkitError(
            f"init_from={path} holds another network: {description.model} {description.fields}, not "
            f"{type(model).__name__} of the same fields{detail}"
        )
    model.load_state_dict({name: weights[name] for name in copied}, strict=False)
    if freeze:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
