"""All tasks by name, and those without a generative model: classification, regression, minimising a function."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.perception.data.samples import Batch, Data, Samples, TensorSamples
from rlkit.perception.generative import (
    Adversarial,
    AdversarialAutoencoding,
    Autoencoding,
    CycleConsistency,
    InformationMaximizing,
    Variational,
)
from rlkit.perception.inputs import Inputs
from rlkit.perception.language import LanguageModeling
from rlkit.perception.plots import draw_boundary, draw_contours, draw_function, draw_predictions, draw_row
from rlkit.perception.task import Better, Picture, Task

MOST_DRAWN = 1000
"""Largest number of test samples whose predictions are drawn."""


class Classification(Task):
    """Classify: cross-entropy of the logits, or with `loss=mse` their squared error to the one-hot label.

    A model with one output tells two classes apart: its output is the logit of the second class.
    """

    better: Mapping[str, Better] = {"loss": "smaller", "accuracy": "larger"}

    def __init__(self, model: nn.Module, *, loss: str = "cross_entropy", label_smoothing: float = 0.0) -> None:
        super().__init__(model)
        check_choice("task.loss", loss, ["cross_entropy", "mse"])
        check_range("task.label_smoothing", label_smoothing, 0, 1)
        self.loss, self.label_smoothing = loss, label_smoothing

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss and accuracy."""
        logits: Tensor = self.model(batch.inputs)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)  # sigmoid(z) = softmax(0, z)
        smoothing = self.label_smoothing if self.training else 0.0
        if self.loss == "mse":
            loss = functional.mse_loss(logits, functional.one_hot(batch.targets, logits.shape[1]).to(logits.dtype))
        else:
            loss = functional.cross_entropy(logits, batch.targets, label_smoothing=smoothing)
        return {"loss": loss, "accuracy": (logits.argmax(1) == batch.targets).float().mean()}

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the picture of the decision boundary if the inputs are points of the plane."""
        if data.input_shape != (2,) or not isinstance(data.test, TensorSamples):
            return {}
        return {"boundary.png": partial(self._draw_boundary, data.test, inputs)}

    def _draw_boundary(self, test: TensorSamples, inputs: Inputs, path: Path) -> None:
        points, labels = test.inputs, test.targets
        low, high = points.min(0).values - 0.3, points.max(0).values + 0.3
        xs, ys = (torch.linspace(float(low[i]), float(high[i]), 200, device=points.device) for i in range(2))
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).flatten(0, 1)  # (200 · 200, 2), row by row
        logits = self.model(inputs(grid))
        if logits.shape[1] == 1:
            kinds = torch.sigmoid(logits[:, 0])
        elif self.loss == "mse":  # the outputs are near 0 and 1 themselves
            kinds = (0.5 + 0.5 * (logits[:, 1] - logits[:, 0])).clamp(0, 1)
        else:
            kinds = logits.softmax(1)[:, 1]
        plane = (xs.cpu().numpy(), ys.cpu().numpy(), kinds.view(200, 200).cpu().numpy())
        draw_boundary(path, points.cpu().numpy(), labels.cpu().numpy(), plane)


class Regression(Task):
    """Predict values: the mean squared error, or with `reduction=sum` its sum; `mae` is the mean absolute error.

    If the model has at most eight parameters, their values are among the results.
    """

    better: Mapping[str, Better] = {"loss": "smaller", "mae": "smaller"}

    def __init__(self, model: nn.Module, *, reduction: str = "mean") -> None:
        super().__init__(model)
        check_choice("task.reduction", reduction, ["mean", "sum"])
        self.reduction = reduction

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss and mean absolute error."""
        outputs: Tensor = self.model(batch.inputs)
        if outputs.shape != batch.targets.shape:
            raise RlkitError(f"the model's outputs are {list(outputs.shape)}, the targets {list(batch.targets.shape)}")
        loss = functional.mse_loss(outputs, batch.targets, reduction=self.reduction)
        return {"loss": loss, "mae": (outputs - batch.targets).abs().mean()}

    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns the parameters of a small model."""
        return parameters_of(self.model)

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the picture of the predictions.

        It is a curve for a function of one variable, the edges that a kernel finds in an image, or else the predictions
        over the targets.
        """
        if data.input_shape == (1,) and isinstance(data.train, TensorSamples):
            return {"function.png": partial(self._draw_function, data.train, inputs)}
        targets = data.test.batch(torch.arange(1)).targets
        if targets.dim() == 4:
            return {"edges.png": partial(self._draw_edges, data.test, inputs)}
        if targets.shape[1:] == (1,):
            return {"predictions.png": partial(self._draw_predictions, data.test, inputs)}
        return {}

    def _draw_function(self, train: TensorSamples, inputs: Inputs, path: Path) -> None:
        x = train.inputs
        line = torch.linspace(float(x.min()), float(x.max()), 400, device=x.device).unsqueeze(1)
        y = self.model(inputs(line))
        draw_function(path, *(t.cpu().numpy() for t in (x, train.targets, line, y)))

    def _draw_edges(self, test: Samples, inputs: Inputs, path: Path) -> None:
        first = test.batch(torch.arange(1))
        signed = {"target": first.targets[0], "model": self.model(inputs(first.inputs))[0]}
        draw_row(path, {"image": first.inputs[0], **{k: (v + 1) / 2 for k, v in signed.items()}})

    def _draw_predictions(self, test: Samples, inputs: Inputs, path: Path) -> None:
        some = test.batch(torch.arange(min(len(test), MOST_DRAWN)))
        outputs = self.model(inputs(some.inputs))
        draw_predictions(path, *(t[:, 0].cpu().numpy() for t in (some.targets, outputs)))


class Himmelblau(Task):
    """Minimise (x² + y − 11)² + (x + y² − 7)², which is 0 in four places; the model is a point of the plane."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.trajectory: list[tuple[float, float]] = []
        """Points that the training has visited, for the drawing."""

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the function's value as `loss`, and the point (x, y)."""
        x, y = self.model(batch.inputs)
        if self.training:
            self.trajectory.append((float(x.detach()), float(y.detach())))
        return {"loss": himmelblau(x, y), "x": x, "y": y}

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the picture of the point's trajectory over the function's contours."""
        return {"function.png": partial(self._draw_trajectory, data.test)}

    def _draw_trajectory(self, test: Samples, path: Path) -> None:
        x, y = (float(value) for value in self.model(test.batch(torch.arange(1)).inputs))
        axis = torch.linspace(-6, 6, 200)
        surface = himmelblau(axis.unsqueeze(0), axis.unsqueeze(1))  # [y, x]
        draw_contours(path, axis.numpy(), surface.log1p().numpy(), [*self.trajectory, (x, y)])


def himmelblau(x: Tensor, y: Tensor) -> Tensor:
    """Himmelblau's function (x² + y − 11)² + (x + y² − 7)² (Himmelblau 1972)."""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def parameters_of(model: nn.Module, most: int = 8) -> dict[str, float]:
    """Returns every parameter by name and index, such as `weight_0`; nothing if there are more than `most`."""
    parameters = {name.rpartition(".")[2]: parameter for name, parameter in model.named_parameters()}
    if sum(parameter.numel() for parameter in model.parameters()) > most:
        return {}
    return {
        f"{name}_{i}": value
        for name, parameter in parameters.items()
        for i, value in enumerate(parameter.detach().flatten().tolist())
    }


TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "regression": Regression,
    "himmelblau": Himmelblau,
    "language_modeling": LanguageModeling,
    "autoencoding": Autoencoding,
    "variational": Variational,
    "adversarial_autoencoding": AdversarialAutoencoding,
    "adversarial": Adversarial,
    "information_maximizing": InformationMaximizing,
    "cycle_consistency": CycleConsistency,
}
"""All choices of `task=` by name."""
