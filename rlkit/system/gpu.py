"""Helpers for torch on a GPU: asynchronous transfers, and compiled functions that are replayed as CUDA graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlkit.spaces import Array

Result = TypeVar("Result")
COMPILE_AFTER_CALLS = 10
"""Calls with one batch size after which a function is compiled for it: fewer would not repay the compilation."""
MAX_COMPILED_BATCH_SIZES = 3
"""Batch sizes for which one function is compiled at most; others run uncompiled."""


def uploaded(array: Array | Tensor, device: torch.device) -> Tensor:
    """Returns the array as a tensor on the device; on the CPU the tensor shares the array's memory.

    A copy to a GPU goes through page-locked (pinned) memory and runs while this thread goes on. Torch does not reuse
    the pinned memory before the copy is done. A tensor that is on the GPU already is returned as it is.
    """
    tensor = torch.as_tensor(array)
    needs_copy = device.type == "cuda" and not tensor.is_cuda
    return tensor.pin_memory().to(device, non_blocking=True) if needs_copy else tensor


def compiled(
    function: Callable[..., Result], device: torch.device, *, dynamic: bool | None = None
) -> Callable[..., Result]:
    """Compiles a function with torch.compile; on a GPU also records it as a CUDA graph, which one launch replays.

    On a GPU the next call overwrites the tensors that the last one returned. `dynamic` is torch.compile's argument:
    False if the shapes never change.
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
    """Returns a function of batches that is compiled for each frequent batch size, and runs uncompiled for the others.

    The number of environments and the size of a minibatch come up again and again, so both are computed by compiled
    code; sizes that keep changing do not cause one compilation after the other. On a GPU the next call overwrites the
    tensors that the last one returned.
    """
    compiled_function, thread = compiled(function, device, dynamic=False), get_ident()
    calls, compiled_sizes = Counter[int](), set[int]()

    def call(features: tuple[Tensor, ...]) -> Result:
        batch_size = len(features[0])
        calls[batch_size] += 1
        if calls[batch_size] >= COMPILE_AFTER_CALLS and len(compiled_sizes) < MAX_COMPILED_BATCH_SIZES:
            compiled_sizes.add(batch_size)
        other_thread = device.type == "cuda" and get_ident() != thread  # a CUDA graph belongs to the thread it is from
        if batch_size not in compiled_sizes or other_thread:
            return function(features)
        return compiled_function(in_one_layout(features))

    return call


def acts_compiled(device: torch.device) -> bool:
    """Returns True where compiling pays for acting too, not only for gradient steps: on GPUs (docs/performance.md)."""
    return device.type == "cuda"


def in_one_layout(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns contiguous tensors, so that compiled code sees one memory layout.

    Images may come as strided views of a replay buffer's frames. Code that was compiled for their strides would have to
    be compiled again for images that are stored otherwise.
    """
    return tuple(tensor.contiguous() for tensor in tensors)
