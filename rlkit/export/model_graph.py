"""A companion model as one torch module from stored samples to outputs: its input stage, and then the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.perception.checkpoint import Description
from rlkit.perception.inputs import Inputs
from rlkit.spaces import Array

NOT_EXPORTED = {
    "rnn_language_model": "it continues texts word by word",
    "numpy_mlp": "it computes in NumPy",
    "point": "it takes no inputs",
    "kernel": "it takes images of any size",
    **dict.fromkeys(("gan", "dcgan", "infogan", "self_attention_gan", "cyclegan"), "it makes samples out of noise"),
}
"""Models that are no function from a sample to an output, or that torch does not compute, and why."""
SHAPES = {"polynomial": (1,)}
"""Shapes of a sample for models that do not keep them."""
LENGTH = 16
"""Words in each text of the sample by which a graph is made; others may be longer or shorter."""


class ModelGraph(nn.Module):
    """Maps a batch of samples, as the data set stores them, to the model's `output` and, of classes, their `label`.

    Images are floats from 0 to 1, of the size that the network was built for.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, description: Description) -> None:
        """Raises RlkitError for a model that is no function from a sample to an output."""
        super().__init__()
        if description.model in NOT_EXPORTED:
            raise RlkitError(f"model {description.model} cannot be exported: {NOT_EXPORTED[description.model]}")
        self.model, self.inputs = model.cpu().eval(), inputs.cpu().eval()
        self.inputs.resize = None
        self.description = description
        self.labels = bool(description.classes) and "num_outputs" in description.fields
        """True for a classifier, and not for a model that reconstructs images of classes."""
        self.words = "vocabulary_size" in description.fields
        self.eval()

    input_names = ("inputs",)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return ["output", "label"] if self.labels else ["output"]

    def sample(self, rows: int, generator: torch.Generator) -> Tensor:
        """Draws inputs of the kind that the model takes: images and numbers, or numbers of words."""
        words = self.description.fields.get("vocabulary_size")
        if words is not None:
            return torch.randint(int(words), (rows, LENGTH), generator=generator)
        shape = getattr(self.model, "input_shape", None) or self.description.fields.get("input_shape")
        shape = shape or SHAPES.get(self.description.model)
        if shape is None:
            raise RlkitError(f"model {self.description.model} cannot be exported: it does not say what it takes")
        return torch.rand(rows, *shape, generator=generator)

    def chosen(self, numbers: Array) -> Array:
        """Returns the labels that outputs stand for."""
        one: Array = (numbers[:, 0] > 0).astype(np.int64) if numbers.shape[1] == 1 else numbers.argmax(1)
        return one

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the output, (batch, …), and with classes the number of the likeliest, (batch,)."""
        model: Any = self.model
        prepared = self.inputs(inputs)
        if self.description.model == "vae":  # whose outputs are drawn: those of the likeliest latent variables
            return (model.decoder(model.posterior(prepared)[0]),)
        output: Tensor = model(prepared)
        if not self.labels:
            return (output,)
        return output, (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)
