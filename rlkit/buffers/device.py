"""A replay buffer's images in the memory of the network's device, where batches are made of them without a transfer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.buffers.frames import storage_class
from rlkit.buffers.storage import row_type
from rlkit.errors import RlkitError
from rlkit.spaces import Array, leaf_spaces
from rlkit.system import gpu

MAX_SHARE = 0.5
"""The share of a GPU's free memory that images may take unasked: the rest is for networks, and for other programs."""
DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
"""The types of images that can be kept on a device."""


class Placement(NamedTuple):
    """The choice of which observations a replay buffer keeps on a device; the others are with the rest of it."""

    device: torch.device
    leaves: tuple[int, ...] = ()
    """The indices of the leaves of the observations that are kept on the device."""
    note: str = ""
    """A sentence for the user about the choice, if there is anything to say."""


class DeviceArray:
    """Zeros on a device, (rows, *row.shape): arrays are written to it, and tensors taken from it."""

    def __init__(self, rows: int, row: np.dtype[Any], device: torch.device) -> None:
        """Raises RlkitError where the device has no room for it."""
        self.shape, self.dtype = (rows, *row.shape), row.base
        self.nbytes = rows * row.itemsize
        try:
            self._tensor = torch.zeros(self.shape, dtype=torch.from_numpy(np.zeros(0, row.base)).dtype, device=device)
        except torch.OutOfMemoryError as error:
            raise RlkitError(
                f"the GPU cannot hold {self.nbytes:,} bytes more of the replay buffer; a smaller agent.replay.size, "
                "or agent.replay.device=cpu, would work"
            ) from error

    def __len__(self) -> int:
        return len(self._tensor)

    def __setitem__(self, rows: int | slice, values: Array | DeviceArray) -> None:
        # Not by page-locked memory: a whole ring, when it is loaded, would take as much again.
        source = values._tensor if isinstance(values, DeviceArray) else torch.from_numpy(np.ascontiguousarray(values))
        self._tensor[rows].copy_(source)

    def take(self, rows: Array, axis: int) -> Tensor:
        """The values in these rows: (*rows.shape, *row.shape)."""
        found = self._tensor.index_select(axis, gpu.uploaded(rows.reshape(-1), self._tensor.device))
        return found.view(*rows.shape, *self.shape[1:])

    def numpy(self) -> Array:
        """A copy in the computer's memory."""
        array: Array = self._tensor.cpu().numpy()
        return array.copy() if self._tensor.device.type == "cpu" else array


def place_images(
    wanted: str, device: torch.device, images: Sequence[int], space: spaces.Space[Any], size: int, folder: Path | None
) -> Placement:
    """Decides where a buffer of `size` transitions keeps the leaves `images` of the observations in `space`.

    `wanted` is agent.replay.device, `folder` agent.replay.folder, and `device` the network's. Raises RlkitError where
    the GPU is wanted and cannot hold them.
    """
    leaves = leaf_spaces(space)
    bytes_per_row = {
        i: storage_class(leaves[i]).ring_type(row).itemsize
        for i, row in ((i, row_type(leaves[i])) for i in images)
        if row.base in DTYPES
    }
    if wanted == "cuda":
        _check_possible(device, bytes_per_row)
    if wanted == "cpu" or folder is not None or device.type != "cuda" or not bytes_per_row:
        return Placement(device)
    needed, free = size * sum(bytes_per_row.values()), torch.cuda.mem_get_info(device)[0]
    if wanted == "cuda" and needed > free:
        raise RlkitError(
            f"agent.replay.size={size:_} needs {needed:,} bytes of the GPU's memory, but only {free:,} are free: "
            f"at most about {size * free // needed:_} transitions fit; agent.replay.device=cpu takes the computer's"
        )
    if wanted == "auto" and needed > MAX_SHARE * free:
        share = f"more than {MAX_SHARE:.0%} of the GPU's {free / 1e9:,.1f} that are free"
        note = f"images replayed from the computer's memory: {needed / 1e9:,.1f} GB would be {share}"
        return Placement(device, note=note)
    share = f"{needed / 1e9:,.1f} of {free / 1e9:,.1f} GB that are free"
    return Placement(device, tuple(bytes_per_row), f"images replayed from the GPU's memory: {share}")


def _check_possible(device: torch.device, bytes_per_row: dict[int, int]) -> None:
    """Raises RlkitError where a GPU cannot keep a buffer's images, however large it is."""
    reason = None
    if device.type != "cuda":
        reason = "the network is on the CPU"
    elif not bytes_per_row:
        reason = "the network takes no images of bytes or of float32"
    if reason:
        raise RlkitError(f"agent.replay.device=cuda, but {reason}; agent.replay.device=auto or cpu would work")
