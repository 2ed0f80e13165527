"""What `fit` trains: a task has a model, the losses of a batch, and the metrics that tell how good it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_choice, check_range
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


class Classification(Task):
    """Which of several classes: cross-entropy of the logits, or with `loss=mse` squared errors to the one-hot label.

    A model with one output tells two classes apart by the logit of the second.
    """

    def __init__(self, model: nn.Module, *, loss: str = "cross_entropy", label_smoothing: float = 0.0) -> None:
        super().__init__(model)
        check_choice("task.loss", loss, ["cross_entropy", "mse"])
        check_range("task.label_smoothing", label_smoothing, 0, 1)
        self.loss, self.label_smoothing = loss, label_smoothing

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and accuracy."""
        logits: Tensor = self.model(batch.inputs)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)  # sigmoid(z) = softmax(0, z)
        smoothing = self.label_smoothing if self.training else 0.0
        if self.loss == "mse":
            loss = functional.mse_loss(logits, functional.one_hot(batch.targets, logits.shape[1]).to(logits.dtype))
        else:
            loss = functional.cross_entropy(logits, batch.targets, label_smoothing=smoothing)
        return {"loss": loss, "accuracy": (logits.argmax(1) == batch.targets).float().mean()}


class Regression(Task):
    """Values: the mean squared error; `mae`, the mean absolute error, is in the target's own unit."""

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and mean absolute error."""
        outputs: Tensor = self.model(batch.inputs)
        if outputs.shape != batch.targets.shape:
            raise RlkitError(f"the model's outputs are {list(outputs.shape)}, the targets {list(batch.targets.shape)}")
        return {"loss": functional.mse_loss(outputs, batch.targets), "mae": (outputs - batch.targets).abs().mean()}


TASKS: dict[str, type[Task]] = {"classification": Classification, "regression": Regression}
"""Every `task=` choice."""
