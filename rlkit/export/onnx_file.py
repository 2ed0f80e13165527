"""Writing a torch module as an ONNX file, and checking that onnxruntime computes what torch and rlkit do."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, told
from rlkit.runs.files import atomic
from rlkit.spaces import Array

OPSET = 18
"""The version of ONNX's operators that files are written in: the first that resizes images as torch does."""
PACKAGES = ("onnx", "onnxruntime")
BOUND = 1e-5
"""The largest difference, as a share of the largest number where that is above 1."""
CHUNK = 100
"""Samples that are computed at once in a check."""


class Graph(Protocol):
    """A module that can be written: it names its inputs and outputs."""

    @property
    def input_names(self) -> Sequence[str]:
        """Names of the inputs, in order."""

    @property
    def output_names(self) -> Sequence[str]:
        """Names of the outputs, in order."""

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs of a batch."""


def check_installed() -> None:
    """Raises RlkitError where a package is missing that writes or checks ONNX files."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RlkitError(f"ONNX files need {' and '.join(missing)}: pip install {' '.join(missing)}")


def write(graph: Any, inputs: Sequence[Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Writes a graph to `file`, whole or not at all; `inputs` are a batch by which it is traced.

    The first dimension of inputs and outputs, and the second of words, is of any size. Raises RlkitError for a module
    that torch cannot write.
    """
    import onnx

    names = [*graph.input_names, *graph.output_names]
    axes = {name: {0: "batch"} for name in names}
    for name, tensor in zip(graph.input_names, inputs, strict=True):
        if tensor.dtype == torch.int64 and tensor.dim() == 2 and getattr(graph, "words", False):
            axes[name][1] = "words"
    with atomic(file) as temporary:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                # Torch warns that this exporter is the older of two (the newer needs one more package), and of sizes
                # that become constants, which the check finds where they matter.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    graph,
                    tuple(inputs),
                    str(temporary),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=list(graph.input_names),
                    output_names=list(graph.output_names),
                    dynamic_axes=axes,
                )
        except Exception as error:  # of torch, or of a network of the user's own
            raise RlkitError(f"torch cannot write this network as ONNX: {told(error)[:300]}") from error
        model = onnx.load(str(temporary))
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.save(model, str(temporary))


def run(file: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the outputs by name that onnxruntime computes, a few samples at a time.

    Raises RlkitError where it cannot.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        rows = len(next(iter(inputs.values())))
        parts = [
            session.run(names, {name: array[start : start + CHUNK] for name, array in inputs.items()})
            for start in range(0, rows, CHUNK)
        ]
    except Exception as error:  # onnxruntime's have no class in common
        raise RlkitError(f"onnxruntime cannot compute {file}: {told(error)[:300]}") from error
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def difference(expected: Array, found: Array) -> float:
    """Returns the largest difference, as a share of the largest number where that is above 1."""
    if expected.shape != found.shape:
        return float("inf")
    exact = expected.astype(np.float64)
    largest = max(1.0, float(np.abs(exact).max(initial=0.0)))
    return float(np.abs(exact - found.astype(np.float64)).max(initial=0.0)) / largest
