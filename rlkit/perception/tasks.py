"""The tasks by name, and those with targets: classes, values, and the minimum of a function."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.perception.data.samples import Batch, Data, TensorSamples
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
from rlkit.perception.task import Task

MOST_DRAWN = 1000
"""Test samples whose predictions are drawn."""


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

    def finish(self, data: Data, inputs: Inputs, folder: Path | None) -> dict[str, float]:
        """Draws the decision boundary where inputs are points of the plane."""
        if data.input_shape == (2,) and folder is not None and isinstance(data.test, TensorSamples):
            points, labels = data.test.inputs, data.test.targets
            low, high = points.min(0).values - 0.3, points.max(0).values + 0.3
            xs, ys = (torch.linspace(float(low[i]), float(high[i]), 200, device=points.device) for i in range(2))
            grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).flatten(0, 1)  # (200 · 200, 2), by rows
            with torch.no_grad():
                logits = self.model(inputs(grid))
            if logits.shape[1] == 1:
                kinds = torch.sigmoid(logits[:, 0])
            elif self.loss == "mse":  # the outputs are near 0 and 1 themselves
                kinds = (0.5 + 0.5 * (logits[:, 1] - logits[:, 0])).clamp(0, 1)
            else:
                kinds = logits.softmax(1)[:, 1]
            plane = (xs.cpu().numpy(), ys.cpu().numpy(), kinds.view(200, 200).cpu().numpy())
            draw_boundary(folder / "boundary.png", points.cpu().numpy(), labels.cpu().numpy(), plane)
        return {}


class Regression(Task):
    """Values: the squared error, its mean or with `reduction=sum` its sum; `mae` is the mean absolute error.

    The results of models of up to eight parameters tell them.
    """

    def __init__(self, model: nn.Module, *, reduction: str = "mean") -> None:
        super().__init__(model)
        check_choice("task.reduction", reduction, ["mean", "sum"])
        self.reduction = reduction

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and mean absolute error."""
        outputs: Tensor = self.model(batch.inputs)
        if outputs.shape != batch.targets.shape:
            raise RlkitError(f"the model's outputs are {list(outputs.shape)}, the targets {list(batch.targets.shape)}")
        loss = functional.mse_loss(outputs, batch.targets, reduction=self.reduction)
        return {"loss": loss, "mae": (outputs - batch.targets).abs().mean()}

    def finish(self, data: Data, inputs: Inputs, folder: Path | None) -> dict[str, float]:
        """Draws a function of one variable, what a kernel finds in an image, or predictions beside the targets."""
        if folder is None:
            return parameters_of(self.model)
        if data.input_shape == (1,) and isinstance(data.train, TensorSamples):
            x = data.train.inputs
            line = torch.linspace(float(x.min()), float(x.max()), 400, device=x.device).unsqueeze(1)
            with torch.no_grad():
                y = self.model(inputs(line))
            draw_function(folder / "function.png", *(t.cpu().numpy() for t in (x, data.train.targets, line, y)))
            return parameters_of(self.model)
        some = data.test.batch(torch.arange(min(len(data.test), MOST_DRAWN)))
        with torch.no_grad():
            outputs = self.model(inputs(some.inputs))
        if some.targets.dim() == 4:
            signed = {"target": some.targets[0], "model": outputs[0]}
            draw_row(folder / "edges.png", {"image": some.inputs[0], **{k: (v + 1) / 2 for k, v in signed.items()}})
        elif some.targets.shape[1:] == (1,):
            draw_predictions(folder / "predictions.png", *(t[:, 0].cpu().numpy() for t in (some.targets, outputs)))
        return parameters_of(self.model)


class Himmelblau(Task):
    """min (x² + y − 11)² + (x + y² − 7)², which is 0 in four places; the model is a point of the plane."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.way: list[tuple[float, float]] = []
        """Where it has been, to draw it."""

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """The function, and where it is taken."""
        x, y = self.model(batch.inputs)
        if self.training:
            self.way.append((float(x.detach()), float(y.detach())))
        return {"loss": himmelblau(x, y), "x": x, "y": y}

    def finish(self, data: Data, inputs: Inputs, folder: Path | None) -> dict[str, float]:
        """Draws the way that the point has come."""
        if folder is not None:
            with torch.no_grad():
                x, y = (float(value) for value in self.model(data.test.batch(torch.arange(1)).inputs))
            axis = torch.linspace(-6, 6, 200)
            surface = himmelblau(axis.unsqueeze(0), axis.unsqueeze(1))  # [y, x]
            draw_contours(folder / "function.png", axis.numpy(), surface.log1p().numpy(), [*self.way, (x, y)])
        return {}


def himmelblau(x: Tensor, y: Tensor) -> Tensor:
    """(x² + y − 11)² + (x + y² − 7)² (Himmelblau 1972)."""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def parameters_of(model: nn.Module, most: int = 8) -> dict[str, float]:
    """Every parameter by name and place, `weight_0`, of a model that has no more than `most`; else nothing."""
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
"""Every `task=` choice."""
