"""What torch does differently on a GPU: transfers that nobody waits for, and compiled steps as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlkit.spaces import Array

Result = TypeVar("Result")


def uploaded(array: Array | Tensor, device: torch.device) -> Tensor:
    """The array as a tensor on the device; on the CPU it is the array's own memory.

    To a GPU it goes by way of page-locked memory, from which it is copied while this thread goes on. Torch keeps that
    memory, and gives it out again only when the copy is done. A tensor that is there already stays what it is.
    """
    tensor = torch.as_tensor(array)
    elsewhere = device.type == "cuda" and not tensor.is_cuda
    return tensor.pin_memory().to(device, non_blocking=True) if elsewhere else tensor


def compiled(function: Callable[..., Result], device: torch.device) -> Callable[..., Result]:
    """By torch.compile; on a GPU all that the function launches is recorded, and launched again at once.

    There the next call overwrites what the last one returned.
    """
    if device.type != "cuda":
        return torch.compile(function)
    graphed = torch.compile(function, mode="reduce-overhead")

    def step(*arguments: Any) -> Result:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return graphed(*arguments)

    return step
