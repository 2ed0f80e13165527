"""What torch does differently on a GPU: transfers that nobody waits for, and compiled steps as CUDA graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlkit.spaces import Array

Result = TypeVar("Result")
OFTEN, SIZES = 10, 3
"""For how many calls with a number of rows it pays to compile a function for it, and for how many numbers at most."""


def uploaded(array: Array | Tensor, device: torch.device) -> Tensor:
    """The array as a tensor on the device; on the CPU it is the array's own memory.

    To a GPU it goes by way of page-locked memory, from which it is copied while this thread goes on. Torch keeps that
    memory, and gives it out again only when the copy is done. A tensor that is there already stays what it is.
    """
    tensor = torch.as_tensor(array)
    elsewhere = device.type == "cuda" and not tensor.is_cuda
    return tensor.pin_memory().to(device, non_blocking=True) if elsewhere else tensor


def compiled(
    function: Callable[..., Result], device: torch.device, *, dynamic: bool | None = None
) -> Callable[..., Result]:
    """By torch.compile; on a GPU all that the function launches is recorded, and launched again at once.

    There the next call overwrites what the last one returned. `dynamic` is torch.compile's: False for sizes that stay.
    """
    if device.type != "cuda":
        return torch.compile(function, dynamic=dynamic)
    graphed = torch.compile(function, dynamic=dynamic, mode="reduce-overhead")

    def step(*arguments: Any) -> Result:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return graphed(*arguments)

    return step


def compiled_by_rows(
    function: Callable[[tuple[Tensor, ...]], Result], device: torch.device
) -> Callable[[tuple[Tensor, ...]], Result]:
    """A function of batches, compiled for each number of rows that comes up often, and else as it is.

    So environments that are stepped side by side and minibatches are computed by compiled code, and nothing is compiled
    over and over for numbers that change. On a GPU the next call overwrites what the last one returned.
    """
    fast, calls, known, thread = compiled(function, device, dynamic=False), Counter[int](), set[int](), get_ident()

    def call(features: tuple[Tensor, ...]) -> Result:
        rows = len(features[0])
        calls[rows] += 1
        if calls[rows] >= OFTEN and len(known) < SIZES:
            known.add(rows)
        if rows not in known or (device.type == "cuda" and get_ident() != thread):  # recordings belong to a thread
            return function(features)
        return fast(in_one_layout(features))

    return call


def acts_compiled(device: torch.device) -> bool:
    """Whether what is not a gradient step is worth compiling: on a CPU it has not been faster, see performance.md."""
    return device.type == "cuda"


def in_one_layout(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same without gaps: what is compiled for views of a replay buffer's frames would not do for other images."""
    return tuple(tensor.contiguous() for tensor in tensors)
