"""A network of the user's own in place of the encoders: `network.module=package.module:Class`.

The class is a `torch.nn.Module` from observations to features, on which the policy, the value or the action values
stand:

- It is made as `Class(observation_space, **network.module_args)`.
- `forward(obs)` takes a batch of observations, nested as the space is, in the shapes that the environment gives:
  (batch, *shape). Box and MultiBinary are float32, as large as they come (bytes from 0 to 255); Discrete and
  MultiDiscrete are int64 and count from 0. With `network.normalize_obs`, Boxes that are no images are whitened.
- It returns features, (batch, num_features) float32, and each row depends on its own observation alone. An attribute
  `num_features` is compared with what comes.

Read top to bottom: making the module, what it is given, how it is called, and what is checked before a run begins.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.networks.features import is_image
from rlkit.networks.normalization import CLIP, RunningStatistics
from rlkit.setting import NetworkConfig
from rlkit.spaces import Array, Obs, leaf_spaces, leaves, stacked
from rlkit.system.dotted_paths import find_class
from rlkit.system.ranks import Ranks
from rlkit.system.seeding import seeded_alone

PROBE_ROWS = 3
LARGEST_PROBE = 1e6
"""Larger numbers of a probe, from a Box with bounds as wide as float32 allows, are replaced by ±1."""


def make_own(
    space: spaces.Space[Any], config: NetworkConfig, generator: torch.Generator
) -> tuple[LeafFeatures, OwnEncoder]:
    """The user's module, made, checked and ready, and what makes its inputs of observations.

    Its initial weights follow from the generator. Raises RlkitError, which names the class, where it breaks the
    contract above.
    """
    kind = find_class("network.module", config.module, nn.Module)
    features = LeafFeatures(space, encoder=config.encoder, normalize=config.normalize_obs)
    check = _Check(config, kind.__name__)
    check.arguments()
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with seeded_alone(seed):  # lazy modules draw their weights in the first forward
        module: nn.Module = check.making(kind, space)
        encoder = OwnEncoder(module, space, config, check)
        encoder.num_outputs = check.all(module, encoder, features(probe(space)))
    _prepare(module)
    return features, encoder


class LeafFeatures(nn.Module):
    """An observation's leaves for a module of the user's own: their shapes stay, and no CNN or one-hot comes between.

    With `normalize`, Box leaves that are no images are whitened by running statistics, which `update` feeds and which
    are saved with the model.
    """

    def __init__(self, space: spaces.Space[Any], *, encoder: str = "auto", normalize: bool = False) -> None:
        super().__init__()
        self.leaves = leaf_spaces(space)
        self.images = [i for i, leaf in enumerate(self.leaves) if is_image(leaf, encoder)]
        boxes = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, spaces.Box) and i not in self.images]
        self.whitened = boxes if normalize else []
        self.sizes = [int(np.prod(self.leaves[i].shape or ())) for i in self.whitened]
        self.statistics = RunningStatistics(sum(self.sizes)) if self.whitened else None
        self.encoders = nn.ModuleList()
        """No frozen encoder comes before the network; see `ObsFeatures`."""

    def __call__(self, obs: Obs) -> tuple[Array, ...]:
        """One array for each leaf, (batch, *shape): images as they are, and tensors where they were; see `forward`."""
        parts = [part if i in self.images else _as_input(part, self.leaves[i]) for i, part in enumerate(obs)]
        if self.statistics is not None:
            mean, std = self.statistics.mean_and_std()
            whitened: Array = np.clip((self._vector(obs) - mean) / std, -CLIP, CLIP)
            columns = np.split(whitened, np.cumsum(self.sizes)[:-1], axis=1)
            for i, column in zip(self.whitened, columns, strict=True):
                parts[i] = column.reshape(parts[i].shape)
        return tuple(parts)

    def update(self, obs: Obs, ranks: Ranks, rows: Array | slice = slice(None)) -> None:
        """Adds these rows of a batch of observations, of all ranks, to the running statistics, if there are any."""
        if self.statistics is not None:
            self.statistics.update(self._vector(tuple(leaf[rows] for leaf in obs)), ranks)

    def _vector(self, obs: Obs) -> Array:
        parts = [obs[i].reshape(len(obs[i]), -1).astype(np.float32, copy=False) for i in self.whitened]
        vector: Array = np.concatenate(parts, axis=1)
        return vector


def _as_input(leaf: Array, space: spaces.Space[Any]) -> Array:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        counted: Array = leaf.reshape(len(leaf), *(space.shape or ())) - space.start
        return counted.astype(np.int64, copy=False)
    return leaf.astype(np.float32, copy=False)


class OwnEncoder(nn.ModuleList):
    """`LeafFeatures`' output to one (batch, num_outputs) tensor, by the user's module: what is where CNNs would be."""

    num_outputs: int
    ends_in_hidden_layer = False
    """Hidden layers follow by default, since nothing is known of how the module ends."""

    def __init__(self, module: nn.Module, space: spaces.Space[Any], config: NetworkConfig, check: _Check) -> None:
        super().__init__([module])
        self._space, self._check = space, check
        self._amp, self._mixed = config.amp, False
        self.path: str = config.module

    @property
    def convolutional(self) -> bool:
        """True where it has convolutions, for which a GPU pays."""
        return any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) for module in self.modules())

    @property
    def only_torch(self) -> str | None:
        """The reason why no engine but torch can compute it."""
        fixed = "" if any(True for _ in self.parameters()) else ", of which no parameter learns"
        return f"the features are those of {self.path}, a module of torch{fixed}"

    def on(self, device: str) -> None:
        """Takes note of the device, `cpu` or `cuda`, that the parameters are on; RlkitError where it cannot follow."""
        self._mixed = self._amp == "bfloat16"
        if device == "cuda":
            features = LeafFeatures(self._space)(probe(self._space))
            place = next(self.parameters(), torch.empty(0, device="cuda")).device
            self._check.moved(self, tuple(torch.as_tensor(part).to(place) for part in features))

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """`features`: each leaf of the observation; bytes become float32 on the device."""
        obs = self._nested(self._space, iter(features))
        if not self._mixed:
            outputs: Tensor = self[0](obs)
            return outputs
        with torch.autocast(features[0].device.type, torch.bfloat16):
            outputs = self[0](obs)
        return outputs.float()

    def _nested(self, space: spaces.Space[Any], parts: Iterator[Tensor]) -> Any:
        """The observation as its space is: dicts and tuples of tensors, or one tensor."""
        if isinstance(space, spaces.Dict):
            return {key: self._nested(part, parts) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._nested(part, parts) for part in space.spaces)
        part = next(parts)
        return part if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else part.float()


def probe(space: spaces.Space[Any], rows: int = PROBE_ROWS) -> Obs:
    """A batch of observations drawn from the space, always the same; the space's own generator is left alone."""
    drawing = copy.deepcopy(space)
    drawing.seed(0)
    batch = leaves(space, stacked(space, [drawing.sample() for _ in range(rows)]))
    return tuple(_bounded(leaf) if leaf.dtype.kind == "f" else leaf for leaf in batch)


def _bounded(leaf: Array) -> Array:
    bounded: Array = np.where(np.abs(leaf) < LARGEST_PROBE, leaf, np.sign(leaf)).astype(leaf.dtype)
    return bounded


def _prepare(module: nn.Module) -> None:
    """Makes buffers of what does not learn, so that nothing takes it for a parameter, and memory without gaps."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.requires_grad:
                parameter.data = parameter.data.contiguous()
            else:
                delattr(part, name)
                part.register_buffer(name, parameter.detach())


class _Check:
    """The checks of a module before a run begins; each mistake is one line that names the class."""

    def __init__(self, config: NetworkConfig, name: str) -> None:
        self.name, self.args = name, config.module_args
        self._path = config.module

    def error(self, what: str) -> RlkitError:
        return RlkitError(f"network.module={self._path}: {' '.join(what.split())}")

    def arguments(self) -> None:
        """Raises RlkitError for arguments that a saved agent could not keep."""
        try:
            kept = json.loads(json.dumps(self.args))
        except (TypeError, ValueError) as error:
            kept = error
        if kept != self.args:
            raise self.error(
                f"module_args={self.args} cannot be saved: expected numbers, strings, lists, and dicts with strings "
                "as keys"
            )

    def making(self, kind: type[Any], space: spaces.Space[Any]) -> nn.Module:
        """The module; raises RlkitError where its constructor fails."""
        given = "".join(f", {name}={value!r}" for name, value in self.args.items())
        try:
            module: nn.Module = kind(space, **self.args)
        except Exception as error:
            raise self.error(f"{self.name}(observation_space{given}) raised {_reason(error)}") from error
        return module

    def all(self, module: nn.Module, encoder: OwnEncoder, features: tuple[Array, ...]) -> int:
        """The number of features; raises RlkitError for a module whose parameters or features cannot be used."""
        inputs = tuple(torch.as_tensor(part) for part in features)
        before = [part.clone() for part in inputs]
        with torch.no_grad():
            first = self.features(encoder, inputs)
            if not all(torch.equal(*pair) for pair in zip(inputs, before, strict=True)):
                raise self.error(f"{self.name}.forward changes the observations that it is given: expected a copy")
            again = self.features(encoder, inputs)
            self.same(first, again, "gives other features the second time (Dropout and noise do that)")
            alone = torch.cat([self.features(encoder, tuple(part[i : i + 1] for part in inputs)) for i in range(2)])
            self.same(
                first[:2],
                alone,
                "makes an observation's features depend on the others in its batch (BatchNorm does, "
                "LayerNorm does not)",
            )
        self.parameters(module, self.features(encoder, inputs))
        self.count(module, first)
        return first.shape[1]

    def features(self, encoder: OwnEncoder, inputs: tuple[Tensor, ...]) -> Tensor:
        """The features of a batch; raises RlkitError where the output is not one row of features per observation."""
        rows, name = len(inputs[0]), f"{self.name}.forward"
        try:
            out: object = encoder(inputs)
        except Exception as error:
            shapes = ", ".join(str(list(part.shape)) for part in inputs)
            raise self.error(f"{name} raised {_reason(error)}, of observations of shape {shapes}") from error
        if not isinstance(out, Tensor):
            raise self.error(f"{name} gives a {type(out).__name__}: expected a tensor of shape (batch, num_features)")
        if out.dim() != 2 or len(out) != rows or not out.shape[1]:
            raise self.error(
                f"{name} gives shape {list(out.shape)} for {rows} observation{'s' * (rows > 1)}: expected "
                f"({rows}, num_features)"
            )
        if out.dtype != torch.float32:
            raise self.error(f"{name} gives {str(out.dtype).removeprefix('torch.')}: expected float32")
        if out.device != inputs[0].device:
            raise self.error(f"{name} gives features on {out.device} of observations on {inputs[0].device}")
        if not bool(out.isfinite().all()):
            raise self.error(f"{name} gives features that are not finite, of observations drawn from the space")
        return out

    def same(self, features: Tensor, others: Tensor, otherwise: str) -> None:
        """Raises RlkitError unless the features are equal, rounding apart."""
        tolerance = 1e-4 * max(float(features.abs().max()), 1e-3)
        if features.shape != others.shape or not torch.allclose(features, others, rtol=1e-3, atol=tolerance):
            raise self.error(f"{self.name}.forward {otherwise}; expected the features of each observation alone")

    def parameters(self, module: nn.Module, features: Tensor) -> None:
        """Raises RlkitError for parameters that cannot learn though they should."""
        learning = {name: each for name, each in module.named_parameters() if each.requires_grad}
        for name, parameter in learning.items():
            if parameter.dtype != torch.float32:
                dtype = str(parameter.dtype).removeprefix("torch.")
                raise self.error(f"{self.name}'s parameter {name} is {dtype}: expected float32")
        if learning and not _reached(features, learning.values()):
            raise self.error(
                f"{self.name} has {len(learning)} parameters, and no gradient of its features reaches any: expected "
                "a forward without no_grad, detach or NumPy, or parameters with requires_grad=False"
            )
        try:
            copy.deepcopy(module)
        except Exception as error:
            raise self.error(f"{self.name} cannot be copied for a target network: {_reason(error)}") from error

    def count(self, module: nn.Module, features: Tensor) -> None:
        """Raises RlkitError unless `num_features`, where the module has it, is how many come."""
        told = getattr(module, "num_features", features.shape[1])
        if told != features.shape[1]:
            raise self.error(f"{self.name}.num_features is {told!r}, and {self.name}.forward gives {features.shape[1]}")

    def moved(self, encoder: OwnEncoder, inputs: tuple[Tensor, ...]) -> None:
        """Raises RlkitError for a module that does not compute on the device where its parameters are now."""
        try:
            with torch.no_grad():
                self.features(encoder, inputs)
        except RlkitError as error:
            raise RlkitError(f"{error}; on a GPU, a tensor is moved with its module by register_buffer") from error


def _reached(features: Tensor, parameters: Iterable[Tensor]) -> bool:
    if not features.requires_grad:
        return False
    gradients = torch.autograd.grad(features.sum(), list(parameters), allow_unused=True)
    return any(gradient is not None for gradient in gradients)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
