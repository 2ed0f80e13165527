"""What a task is: the contract between what is learned and `fit`, which trains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from rlkit.perception.data.samples import Batch, Data
from rlkit.perception.inputs import Inputs


class Loss(NamedTuple):
    """What one part of the model is to make smaller."""

    part: str
    """Which of the task's `parts` takes a gradient step for it."""
    value: Tensor
    """()"""
    metrics: Mapping[str, Tensor] = {}
    """Means over the batch, for the log."""


class Task(nn.Module):
    """A model, and what it is trained for. Its state, and so a checkpoint's, is all in it.

    Written for one model and one loss; GANs and other models of several parts override `parts` and `losses`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def parts(self) -> dict[str, nn.Module]:
        """The modules that have an optimiser each."""
        return {"model": self.model}

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """The losses of a training batch, one after another: each is asked for when the step for the last one is taken.

        So a discriminator has learned already when its generator's loss is computed.
        """
        metrics = self.measure(batch)
        yield Loss("model", metrics["loss"], metrics)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Means over a batch, among them `loss`: for validation and test, in evaluation mode and without gradients."""
        raise NotImplementedError

    def finish(self, data: Data, inputs: Inputs, folder: Path | None) -> dict[str, float]:
        """At the end, in evaluation mode: draws what there is to draw into `folder`, if there is one.

        Returns further results for the summary.
        """
        return {}
