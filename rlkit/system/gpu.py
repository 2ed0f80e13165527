"""Helpers for torch on a GPU: asynchronous transfers, and functions whose kernels are recorded as CUDA graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlkit.errors import RlkitError
from rlkit.spaces import Array

Tensors = tuple[Tensor, ...]
RECORD_AFTER_CALLS = 10
"""Calls with tensors of the same shapes after which a function is recorded for them: fewer would not repay it."""
WARM_UP_CALLS = 3
"""Calls before the recording, in which libraries choose their algorithms and torch.compile compiles."""
MAX_RECORDINGS = 3
"""Sets of shapes for which one function is recorded at most; with others it runs unrecorded."""


def uploaded(array: Array | Tensor, device: torch.device) -> Tensor:
    """Returns the array as a tensor on the device; on the CPU the tensor shares the array's memory.

    A copy to a GPU goes through page-locked (pinned) memory and runs while this thread goes on. Torch does not reuse
    the pinned memory before the copy is done. A tensor that is on the GPU already is returned as it is.
    """
    tensor = torch.as_tensor(array)
    needs_copy = device.type == "cuda" and not tensor.is_cuda
    return tensor.pin_memory().to(device, non_blocking=True) if needs_copy else tensor


def upload_into(place: Tensor, array: Array | Tensor) -> None:
    """Copies an array into a tensor on a GPU, through pinned memory as `uploaded` does, or a tensor from the GPU."""
    tensor = torch.as_tensor(array)
    place.copy_(tensor if tensor.is_cuda or not place.is_cuda else tensor.pin_memory(), non_blocking=True)


class CudaGraph:
    """The kernels that a function launches, recorded once; a replay launches all of them in one go.

    What the function computes may depend on its inputs and on tensors that stay where they are, such as parameters.
    All that it takes from Python, like a number or the result of an `if`, stays as it was when it was recorded.
    """

    def __init__(self, function: Callable[..., Tensors], inputs: Sequence[Tensor]) -> None:
        """Records the function, without running it; raises RlkitError where it waits for a result on the way."""
        self._inputs = [part.clone(memory_format=torch.contiguous_format) for part in inputs]
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = function(*self._inputs)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RlkitError(
                f"the network or its loss cannot be recorded as a CUDA graph ({reason}); compute=torch would work"
            ) from error

    def replay(self, inputs: Sequence[Array | Tensor]) -> Tensors:
        """Runs the kernels on other inputs of the same shapes; returns tensors that the next replay overwrites."""
        for place, given in zip(self._inputs, inputs, strict=True):
            upload_into(place, given)
        self._graph.replay()
        return self._outputs


class Recorded:
    """A function of tensors on a GPU that is recorded as a CUDA graph for the shapes that come often.

    Small networks leave a GPU idle while Python launches their kernels one by one. The number of environments and the
    size of a minibatch come up again and again, so a recording for each serves almost all calls. `function` must be fit
    for a recording, as `CudaGraph` says. `fast`, if given, computes the same and takes its place in recordings: a
    compiled form of it, which is not worth compiling for shapes that come rarely. The next call may overwrite the
    tensors that the last one returned.
    """

    def __init__(
        self, function: Callable[..., Tensors], device: torch.device, fast: Callable[..., Tensors] | None = None
    ) -> None:
        self._function, self._device = function, device
        self._fast = function if fast is None else fast
        self._calls = Counter[tuple[object, ...]]()
        self._graphs: dict[tuple[object, ...], CudaGraph | None] = {}
        """The recordings by the shapes and types of their inputs; None while those warm up."""

    def __call__(self, *inputs: Array | Tensor) -> Tensors:
        shapes = tuple((part.shape, part.dtype) for part in inputs)
        graph = self._graphs.get(shapes)
        if graph is not None:
            return graph.replay(inputs)
        tensors = [uploaded(part, self._device) for part in inputs]
        self._calls[shapes] += 1
        calls = self._calls[shapes] - RECORD_AFTER_CALLS
        if shapes not in self._graphs:
            if calls <= 0 or len(self._graphs) == MAX_RECORDINGS:
                return self._function(*tensors)
            self._graphs[shapes] = None
        tensors = [part.contiguous() for part in tensors]  # as recordings see them, which compiled code depends on
        if calls <= WARM_UP_CALLS:
            return self._fast(*tensors)
        graph = self._graphs[shapes] = CudaGraph(self._fast, tensors)
        return graph.replay(tensors)


def in_one_layout(tensors: Tensors) -> Tensors:
    """Returns contiguous tensors, so that compiled code sees one memory layout.

    Images may come as strided views of a replay buffer's frames. Code that was compiled for their strides would have to
    be compiled again for images that are stored otherwise.
    """
    return tuple(tensor.contiguous() for tensor in tensors)
