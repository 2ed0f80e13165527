"""The interface of tasks: a model together with the losses that `fit` trains it for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlkit.perception.data.samples import Batch, Data
from rlkit.perception.inputs import Inputs
from rlkit.perception.models.normalization import BatchNorm

Better = Literal["smaller", "larger"]
"""The direction in which a metric is better."""
DIRECTIONS: tuple[str, ...] = get_args(Better)

Picture = Callable[[Path], object]
"""A function that draws a picture, or writes another illustration, to a path."""


class Loss(NamedTuple):
    """A loss of one part of the model, which takes a gradient step to make it smaller."""

    part: str
    """Name of the part in the task's `parts`."""
    value: Tensor
    """The loss, a tensor without dimensions."""
    metrics: Mapping[str, Tensor] = {}
    """Metrics for the log, means over the batch."""


class Task(nn.Module):
    """A model and the losses that it is trained for; its `state_dict` is what a checkpoint holds.

    The methods here suit a model with one loss, for which only `measure` has to be written. GANs and other models of
    several parts override `parts` and `losses`.
    """

    better: Mapping[str, Better] = {"loss": "smaller"}
    """Metrics of `measure` by which the best model can be chosen, each with the direction that is better."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def parts(self) -> dict[str, nn.Module]:
        """Returns the modules that have an optimiser each, by the names that `Loss.part` uses."""
        return {"model": self.model}

    @property
    def smallest_batch(self) -> int:
        """Least number of samples that an epoch's last batch can have: batch normalisation learns nothing from one."""
        return 2 if any(isinstance(module, (_BatchNorm, BatchNorm)) for module in self.modules()) else 1

    def check(self, data: Data) -> None:
        """Raises RlkitError for data that the task cannot work with; called before the first step."""

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """Yields the losses of a training batch; the step for each is taken before the next one is computed.

        A discriminator, for example, has already learned from the batch when its generator's loss is computed.
        """
        metrics = self.measure(batch)
        yield Loss("model", metrics["loss"], metrics)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns metrics as means over a batch, among them `loss`.

        Validation and test call this in evaluation mode without gradients; `losses` calls it for training.
        """
        raise NotImplementedError

    def finish(self, data: Data, inputs: Inputs) -> dict[str, float]:
        """Returns further results for the summary; called once after the training, in evaluation mode."""
        return {}

    def pictures(self, data: Data, inputs: Inputs) -> dict[str, Picture]:
        """Returns the functions that draw what illustrates the results, by the name of the file that each draws.

        They are called after `finish`, when all results are written, in evaluation mode and without gradients. One that
        raises costs its own picture only.
        """
        return {}
