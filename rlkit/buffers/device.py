"""A replay buffer's images in the memory of the network's device, where batches are made of them without a transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.buffers.frames import storage_of
from rlkit.errors import RlkitError
from rlkit.spaces import Array, leaf_spaces
from rlkit.system import gpu

SHARE = 0.5
"""What images may take of a GPU's free memory without being asked to: the rest is for networks, and for others."""
DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
"""Of the images that are kept on a device."""


class ImagePlace(NamedTuple):
    """Where a replay buffer keeps which images."""

    device: torch.device
    leaves: tuple[int, ...]
    """Which parts of the observations, by number."""


class DeviceArray:
    """Zeros on a device, which arrays are written to, and tensors taken from."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], device: torch.device) -> None:
        """Raises RlkitError where the device has no room for it."""
        self.shape, self.dtype = shape, dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        try:
            self._tensor = torch.zeros(shape, dtype=torch.from_numpy(np.zeros(0, dtype)).dtype, device=device)
        except torch.OutOfMemoryError as error:
            raise RlkitError(
                f"the GPU cannot hold {self.nbytes:,} bytes more of the replay buffer; a smaller agent.buffer_size, "
                "or agent.buffer_device=cpu, would work"
            ) from error

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, rows: int | slice, values: Array | DeviceArray) -> None:
        # Not by page-locked memory, of which a whole ring, as it is loaded, would take as much again.
        source = values._tensor if isinstance(values, DeviceArray) else torch.from_numpy(np.ascontiguousarray(values))
        self._tensor[rows].copy_(source)

    def take(self, rows: Array, axis: int) -> Tensor:
        """These rows: (*rows.shape, *shape[1:])."""
        found = self._tensor.index_select(axis, gpu.uploaded(rows.reshape(-1), self._tensor.device))
        return found.view(*rows.shape, *self.shape[1:])

    def numpy(self) -> Array:
        """A copy in the computer's memory."""
        array: Array = self._tensor.cpu().numpy()
        return array.copy() if self._tensor.device.type == "cpu" else array


def image_place(
    wanted: str, device: torch.device, images: Sequence[int], space: spaces.Space[Any], size: int, folder: str | None
) -> tuple[ImagePlace | None, str]:
    """Where a buffer of `size` transitions keeps the leaves `images` of observations; None: with all the rest.

    `wanted` is `agent.buffer_device`, `device` that of the network; `folder` is `agent.buffer_dir`. Beside it, what the
    user should know of the choice, if anything. Raises RlkitError where the GPU that is wanted cannot be.
    """
    kinds = {i: storage_of(leaf) for i, leaf in enumerate(leaf_spaces(space)) if i in images}
    suited = {i: storage.bytes_per_row(kind) for i, (storage, kind) in kinds.items() if kind.dtype in DTYPES}
    if wanted == "cuda":
        for reason in _obstacles(device, suited):
            raise RlkitError(f"agent.buffer_device=cuda, but {reason}; agent.buffer_device=auto or cpu would work")
    if wanted == "cpu" or folder is not None or device.type != "cuda" or not suited:
        return None, ""
    needed, free = size * sum(suited.values()), torch.cuda.mem_get_info(device)[0]
    if wanted == "cuda" and needed > free:
        raise RlkitError(
            f"agent.buffer_size={size:_} needs {needed:,} bytes of the GPU's memory, but only {free:,} are free: "
            f"at most about {size * free // needed:_} transitions fit; agent.buffer_device=cpu takes the computer's"
        )
    if wanted == "auto" and needed > SHARE * free:
        share = f"more than {SHARE:.0%} of the GPU's {free / 1e9:,.1f} that are free"
        return None, f"images replayed from the computer's memory: {needed / 1e9:,.1f} GB would be {share}"
    why = f"{needed / 1e9:,.1f} of {free / 1e9:,.1f} GB that are free"
    return ImagePlace(device, tuple(suited)), f"images replayed from the GPU's memory: {why}"


def _obstacles(device: torch.device, suited: dict[int, int]) -> list[str]:
    """Why a GPU cannot keep a buffer's images, however large it is."""
    found = [] if device.type == "cuda" else ["the network is on the CPU"]
    return found if suited else [*found, "the network takes no images of bytes or of float32"]
