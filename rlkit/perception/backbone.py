"""A trained network without its head: observations in, features out; for agents, and for networks of other data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.perception.checkpoint import Description, build_model, load_model
from rlkit.perception.inputs import Inputs


class Backbone(nn.Module):
    """`encode(obs) -> features` of any network that can; `feature_size` says how many.

    Frozen, it has neither gradients nor a training mode: dropout is off and batch normalisation keeps its statistics.
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
        """What it takes to build it again, if it comes from a run."""
        self.frozen = False
        if frozen:
            self.freeze()

    @classmethod
    def load(cls, path: str | Path, *, frozen: bool = True) -> Backbone:
        """The network of a companion run: its run folder, a checkpoint, or a model file.

        Raises RlkitError when there is none, it is damaged, or its network cannot encode.
        """
        model, inputs, description = load_model(path)
        return cls(model, inputs, frozen=frozen, description=description)

    @classmethod
    def build(cls, description: Mapping[str, Any], *, frozen: bool = True) -> Backbone:
        """One of random weights, for those that were saved elsewhere; `description` has the fields of `Description`.

        Raises RlkitError where it describes no backbone.
        """
        try:
            described = Description(**description)
        except TypeError as error:
            raise RlkitError(f"this describes no companion model: {error}") from error
        return cls(*build_model(described), frozen=frozen, description=described)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the images that the network was built for; of others theirs, () if unknown."""
        return tuple(getattr(self.model, "input_shape", ()))

    @property
    def feature_size(self) -> int:
        """How many features an observation has."""
        size: int = self.model.feature_size  # type: ignore[assignment]
        return size

    def encode(self, obs: Tensor) -> Tensor:
        """(batch, …) observations, as the network's data set has them -> (batch, feature_size).

        Images are (batch, channels, height, width), bytes or from 0 to 1, and enlarged or shrunk to the size that the
        network was built for; grey ones are repeated for a network of colours, and colours made grey for one of grey.
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
        """Takes the network out of training."""
        self.frozen = True
        self.model.requires_grad_(False)
        self.eval()
        return self

    def unfreeze(self) -> Backbone:
        """Puts the network back into training: gradients, dropout, batch statistics."""
        self.frozen = False
        self.model.requires_grad_(True)
        self.train()
        return self

    def train(self, mode: bool = True) -> Backbone:
        """As of every module, but a frozen network stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self


def _fitting(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images with the channels and the size of `shape`."""
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


def transfer(model: nn.Module, path: str | Path, *, freeze: bool) -> None:
    """Gives `model` the parameters that the network at `path` has, all but the head's; `freeze` keeps them as they are.

    Raises RlkitError unless it is the same network, up to its head.
    """
    source, _, description = load_model(path)
    theirs, mine = source.state_dict(), model.state_dict()
    names = [name for name in mine if not name.startswith("head.")]
    different = [name for name in names if name not in theirs or theirs[name].shape != mine[name].shape]
    if type(source) is not type(model) or different:
        detail = f": '{different[0]}' differs" if different else ""
        raise RlkitError(
            f"init_from={path} holds another network: {description.model} {description.fields}, not "
            f"{type(model).__name__} of the same fields{detail}"
        )
    model.load_state_dict({name: theirs[name] for name in names}, strict=False)
    if freeze:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
