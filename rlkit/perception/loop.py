"""The training loop of every companion model: steps, validation, early stopping, the best model, a final test.

The loop trains a `Task` (`rlkit/perception/task.py`) with the settings of a `FitConfig`. The optimisers and the
learning rate's schedule are in `rlkit/perception/optimization.py`. `rlkit.perception.run` adds the run folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlkit.errors import RlkitError, check_choice, unknown
from rlkit.perception.config import FitConfig
from rlkit.perception.data.samples import Batch, Data, Samples, check_numbers
from rlkit.perception.inputs import Inputs
from rlkit.perception.optimization import (
    check_optimizer_state,
    clip_gradients,
    learning_rate_factor,
    make_optimizer,
    penalty,
    state_names,
)
from rlkit.perception.task import DIRECTIONS, Task
from rlkit.runs.loggers import Logger, Tolerated
from rlkit.runs.progress import Progress
from rlkit.system.subnormals import flushed
from rlkit.system.terminal import remarked
from rlkit.system.threads import one_thread_unless_asked

STEP_KEY = "time/step"
"""Column of metrics.csv with the number of gradient steps."""
LATEST = {"train/loss": "loss {:.4f}", "val/loss": "validation {:.4f}", "val/accuracy": "accuracy {:.2%}"}
"""Metrics that the progress bar shows, with their formats."""
_COUNTERS = ("epoch", "steps", "batches_done", "best", "best_epoch", "_patience_best", "_stale")
"""Attributes of `Training` that are saved as plain numbers, beside the tensors."""
UNCHECKED_STEPS = 50
"""Losses that are read from a GPU together, because every reading waits until the GPU has caught up."""


@dataclass
class Numbers:
    """The plain numbers in the state of a training."""

    epoch: int
    """Finished epochs."""
    steps: int
    """Gradient steps of all epochs."""
    batches_done: int
    """Batches of this epoch."""
    best: float | None
    """Best value of the monitored metric so far, as a number of which less is better."""
    best_epoch: int | None
    _patience_best: float
    _stale: int
    sums: dict[str, float]
    """Sums of metrics for the next row of metrics.csv."""
    weights: dict[str, float]
    """Number of samples in each sum."""
    scaler: dict[str, Any]
    """State of the scaler of losses; empty without one."""
    monitor: str = ""
    """The monitored metric with its direction; empty in checkpoints of earlier versions."""
    samples: list[int] | None = None
    """Number of samples to learn from, to validate and to test; None in checkpoints of earlier versions."""

    def check(self, batches_per_epoch: int) -> None:
        """Raises ValueError for numbers that no training can have."""
        if min(self.epoch, self.steps, self.batches_done, self._stale) < 0 or self.batches_done > batches_per_epoch:
            raise ValueError("its counts of epochs, steps and batches contradict each other")
        if self.best_epoch is not None and not 1 <= self.best_epoch <= self.epoch:
            raise ValueError(f"its best epoch is {self.best_epoch} of {self.epoch}")
        if not all(map(math.isfinite, [*self.sums.values(), *self.weights.values(), self.best or 0])):
            raise ValueError("one of its numbers is not finite")
        if min(self.weights.values(), default=1) <= 0 or self._patience_best != self._patience_best:
            raise ValueError("one of its numbers is out of range")


@dataclass
class Fitted:
    """The trained task with its results, which `fit` returns."""

    task: Task
    """The trained task; with `restore_best`, in the state in which it was best in validation."""
    metrics: dict[str, float]
    """`test_loss` and the task's other test metrics, as `test_<name>`."""
    epochs: int
    """Number of epochs that were trained."""
    best_epoch: int | None
    """Epoch after which the model was best in validation, counted from 1; None without validation."""


def fit(
    task: Task,
    data: Data,
    config: FitConfig | None = None,
    *,
    inputs: Inputs | None = None,
    seed: int = 0,
    device: str = "cpu",
    loggers: Sequence[Logger] = (),
) -> Fitted:
    """Trains the task's model on the data and tests it. Seeds torch's global generator.

    `inputs` is the stage in front of the model; without it, the data go in as they are, and bytes as floats from 0 to
    1. A logger that raises is a remark, and gets no more metrics. Raises RlkitError for settings that cannot work, and
    when the loss stops being a finite number.
    """
    config = config or FitConfig()
    config.validate()
    torch.manual_seed(seed)
    tolerated = [Tolerated(type(logger).__name__, logger) for logger in loggers]
    trainer = Training(task, data, config, inputs or Inputs(), seed=seed, device=device, loggers=tolerated)
    progress = Progress(trainer.total_samples, unit="samples", latest=LATEST)
    with one_thread_unless_asked(), progress as trainer.progress:
        trainer.train()
        return Fitted(task, trainer.finish(), trainer.epoch, trainer.best_epoch)


class Training:
    """One training, whose loop is `train`; `state` and `load_state` save and restore all of it."""

    def __init__(
        self,
        task: Task,
        data: Data,
        config: FitConfig,
        inputs: Inputs,
        *,
        seed: int,
        device: str,
        loggers: Sequence[Logger] = (),
        write: Callable[[], None] = lambda: None,
    ) -> None:
        if config.monitor not in task.better:
            raise unknown("fit.monitor", config.monitor, task.better)
        check_choice(f"{type(task).__name__}.better of {config.monitor}", task.better[config.monitor], DIRECTIONS)
        if not len(data.train):
            raise RlkitError("there are no samples to learn from: expected 1 or more")
        check_numbers(data)
        task.check(data)
        self.task: Task = task.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.inputs = inputs.to(device)
        self.data, self.config, self.device = data.to(device), config, device
        self.check_folder: Callable[[], None] = lambda: None
        self.loggers, self.write = loggers, write
        self.progress = Progress(1, silent=True)
        self.optimizers = self._make_optimizers()
        self.amp = _amp_dtype(config.amp, device)
        self.scaler = torch.amp.GradScaler(device, enabled=self.amp == torch.float16)
        self.order = torch.Generator().manual_seed(seed)
        self._order_state = self._epoch_order = self.order.get_state()
        self.epoch = self.steps = self.batches_done = 0  # finished epochs, steps of all epochs, batches of this epoch
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.best_state: dict[str, Tensor] | None = None
        self.holds_best = False
        """True once the task has the best model's parameters in place of the last ones."""
        self._patience_best, self._stale = math.inf, 0
        # Each metric of the next row, summed over samples; "weights" holds the number of samples in each sum.
        self._sums: dict[str, Any] = {}
        self._unchecked: list[tuple[int, Tensor]] = []
        self.interrupted = False
        self._since_log = (0, time.perf_counter())

    @property
    def batches_per_epoch(self) -> int:
        """Number of gradient steps in an epoch."""
        whole, rest = divmod(len(self.data.train), self.config.batch_size)
        return max(1, whole + (rest >= self.task.smallest_batch and not self.config.drop_last))

    @property
    def sizes(self) -> list[int]:
        """Number of samples to learn from, to validate and to test."""
        return [len(part) if part else 0 for part in (self.data.train, self.data.validation, self.data.test)]

    @property
    def total_samples(self) -> int:
        """Number of samples in all epochs together, if nothing stops the training early."""
        return self.config.epochs * len(self.data.train)

    # The loop

    def train(self) -> None:
        """Trains epoch by epoch: a step for each batch, then validation, a row of metrics and a checkpoint."""
        self._since_log = (self.steps, time.perf_counter())
        while self.epoch < self.config.epochs and not self.stopped_early:
            for batch in self.batches():
                with flushed():
                    self.step(batch)
            self.epoch += 1
            if self.epoch % self.config.validation_interval == 0 or self.epoch == self.config.epochs:
                self.validate()
            self.log()
            if self._checkpoint_due():
                self.save()
        self.save()
        if self.best_state is not None and self.config.restore_best:
            self.holds_best = True
            self.task.load_state_dict(self.best_state)

    def batches(self) -> Iterator[Batch]:
        """Yields the training batches that are left of this epoch, whose order is drawn anew for each epoch.

        A last batch that is too small for the task is joined to the one before it. Raises KeyboardInterrupt after
        Ctrl-C.
        """
        set_training(self.task)
        self.inputs.train()
        self._order_state = self._epoch_order = self.order.get_state()
        order = torch.randperm(len(self.data.train), generator=self.order)
        size = self.config.batch_size
        count = self.batches_per_epoch
        for i in range(self.batches_done, count):
            if self.interrupted:
                raise KeyboardInterrupt
            end = len(order) if i == count - 1 and not self.config.drop_last else (i + 1) * size
            samples = self.data.train.batch(order[i * size : end])
            self.batches_done = i + 1
            yield Batch(channels_last(self.inputs(samples.inputs)), samples.targets)
        self.batches_done = 0
        self._order_state = self.order.get_state()

    def step(self, batch: Batch) -> None:
        """Takes a gradient step for each loss that the task yields for the batch."""
        total_steps = self.config.epochs * self.batches_per_epoch
        factor = learning_rate_factor(self.config, self.steps, total_steps, self.epoch)
        losses = self.task.losses(batch)
        while True:
            with self.autocast(), _one_line():
                loss = next(losses, None)
            if loss is None:
                break
            part, optimizer = self.task.parts()[loss.part], self.optimizers[loss.part]
            extra = penalty(part, self.config.l1, self.config.l2, self.config.penalized)
            optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss.value if extra is None else loss.value + extra).backward()  # type: ignore[no-untyped-call]
            self._clip(optimizer)
            optimizer.param_groups[0]["lr"] = self._learning_rate(loss.part) * factor
            self.scaler.step(optimizer)
            self._note(loss.value, loss.metrics, len(batch.inputs))
        self.scaler.update()
        self.steps += 1
        self._check()
        if self.config.log_interval and self.steps % self.config.log_interval == 0:
            self.log()

    def validate(self) -> None:
        """Measures the model on the validation samples and keeps a copy of the best one so far."""
        if not self.data.validation:
            return
        generator = torch.get_rng_state()
        try:
            metrics = self.evaluate(self.data.validation)
        except KeyboardInterrupt:
            # Back to the end of the epoch's last batch, before the epoch was counted: a resumed run validates first.
            self.epoch, self.batches_done, self._order_state = self.epoch - 1, self.batches_per_epoch, self._epoch_order
            torch.set_rng_state(generator)
            raise
        self._sums |= {f"val/{name}": value for name, value in metrics.items()}
        if self.config.monitor not in metrics:
            raise unknown("metric of the validation in fit.monitor", self.config.monitor, metrics)
        value = metrics[self.config.monitor]
        if not math.isfinite(value):
            raise self._diverged(f"the validation {self.config.monitor}", value, self.steps)
        value = value if self.task.better[self.config.monitor] == "smaller" else -value
        if self.best is None or value < self.best:
            self.best, self.best_epoch = value, self.epoch
            self.best_state = {name: tensor.detach().clone() for name, tensor in self.task.state_dict().items()}
        if value < self._patience_best - self.config.min_delta:
            self._patience_best, self._stale = value, 0
        else:
            self._stale += self.config.validation_interval

    @property
    def monitored(self) -> float | None:
        """The monitored metric of the best epoch; None without validation."""
        smaller = self.task.better[self.config.monitor] == "smaller"
        return self.best if self.best is None or smaller else -self.best

    @property
    def stopped_early(self) -> bool:
        """True if validation has not improved for `patience` epochs."""
        return self.config.patience is not None and self._stale >= self.config.patience

    def evaluate(self, samples: Samples) -> dict[str, float]:
        """Returns the task's metrics, means over all `samples`, in evaluation mode.

        Raises KeyboardInterrupt after Ctrl-C.
        """
        self.task.eval()
        self.inputs.eval()
        sums: dict[str, Tensor] = {}
        with torch.no_grad():
            for indices in torch.split(torch.arange(len(samples)), self.config.eval_batch_size):
                if self.interrupted:
                    raise KeyboardInterrupt
                some = samples.batch(indices)
                with self.autocast():
                    metrics = self.task.measure(Batch(channels_last(self.inputs(some.inputs)), some.targets))
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0) + value.detach().double() * len(indices)
        return {name: float(total) / len(samples) for name, total in sums.items()}

    def finish(self) -> dict[str, float]:
        """Tests the model; returns all results as `test_<name>`.

        Without test samples there are no results. Raises RlkitError if the loss is not a finite number.
        """
        if not len(self.data.test):
            self.task.eval()
            return {}
        results = self.evaluate(self.data.test)
        if not math.isfinite(results["loss"]):
            raise self._diverged("the test loss", results["loss"], self.steps)
        results |= self.task.finish(self.data, self.inputs)
        return {f"test_{name}": value for name, value in results.items()}

    @torch.no_grad()
    def draw(self, folder: Path) -> None:
        """Draws the task's pictures into `folder`, after `finish`; one that cannot be drawn is a remark.

        Without test samples there are none.
        """
        if not len(self.data.test):
            return
        with remarked("drawing"):
            for name, picture in self.task.pictures(self.data, self.inputs).items():
                with remarked(f"drawing {name}"):
                    picture(folder / name)

    def log(self) -> None:
        """Hands the means of all metrics since the last row to the loggers."""
        self._check(now=True)
        weights = self._sums.pop("weights", {})
        metrics = {
            name: float(value) / weights[name] if name in weights else value for name, value in self._sums.items()
        }
        steps, then = self._since_log
        now = time.perf_counter()
        metrics |= {f"train/learning_rate{_suffix(part)}": rate for part, rate in self._rates().items()}
        metrics["time/epoch"] = self.epoch + self.batches_done / self.batches_per_epoch
        metrics["time/samples_per_second"] = (self.steps - steps) * self.config.batch_size / max(now - then, 1e-9)
        self._sums, self._since_log = {}, (self.steps, now)
        self.check_folder()
        for logger in self.loggers:
            logger.log(metrics, self.steps)
        done = (self.epoch + self.batches_done / self.batches_per_epoch) * len(self.data.train)
        self.progress.update(round(done), metrics)

    # Saving and restoring

    def save(self) -> None:
        """Writes a checkpoint; raises RlkitError if the last steps overflowed, so that the one before it stays."""
        for name, parameter in self.task.named_parameters():
            if not parameter.isfinite().all():
                raise self._diverged(f"a number in {name}", float(parameter.detach().sum()), self.steps)
        self.write()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns all that it takes to continue exactly here: tensors by name, and numbers that JSON can hold."""
        tensors = {f"task.{name}": tensor for name, tensor in self.task.state_dict().items()}
        for part, optimizer in self.optimizers.items():
            for index, values in optimizer.state_dict()["state"].items():
                named = {name: value for name, value in values.items() if isinstance(value, Tensor)}
                tensors |= {f"optimizer.{part}.{index}.{name}": value for name, value in named.items()}
        tensors |= {"order": self._order_state, "generator": torch.get_rng_state()}
        if self.device == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state()
        weights = self._sums.get("weights", {})
        if self.best_state is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best_state.items()}
        numbers = {name: getattr(self, name) for name in _COUNTERS}
        numbers |= {"monitor": self._monitor, "samples": self.sizes}
        sums = {name: float(value) for name, value in self._sums.items() if name != "weights"}
        return tensors, {**numbers, "sums": sums, "weights": weights, "scaler": self.scaler.state_dict()}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restores what `state` returned; raises KeyError, ValueError or RuntimeError if it is of another training."""
        numbers = Numbers(**values)
        numbers.check(self.batches_per_epoch)
        self.task.load_state_dict(_below("task.", tensors))
        for part, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below(f"optimizer.{part}.", tensors).items():
                index, _, name = name.partition(".")
                state.setdefault(int(index), {})[name] = tensor
            check_optimizer_state(optimizer, self.config, state)
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        if numbers.steps and state_names(self.config) and not any(one.state for one in self.optimizers.values()):
            raise ValueError("the optimiser's state is missing")
        self.order.set_state(tensors["order"])
        self._order_state = tensors["order"]
        for name in _COUNTERS:
            setattr(self, name, getattr(numbers, name))
        self._sums = {**numbers.sums, "weights": dict(numbers.weights)} if numbers.sums else {}
        if self.best_epoch is not None:
            self.best_state = _below("best.", tensors) or None
        if (numbers.monitor or self._monitor_of_old) != self._monitor:  # another metric, whose best is still to come
            self.best, self.best_epoch, self.best_state = None, None, None
            self._patience_best, self._stale = math.inf, 0
        self.scaler.load_state_dict(numbers.scaler)
        if self.device == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"])
        torch.set_rng_state(tensors["generator"])

    @property
    def _monitor(self) -> str:
        """The metric that chooses the best model, with its direction."""
        return f"{self.config.monitor}, {self.task.better[self.config.monitor]}"

    @property
    def _monitor_of_old(self) -> str:
        """The direction in checkpoints that don't say it, where every metric but two was better when larger."""
        return f"{self.config.monitor}, {'smaller' if self.config.monitor in ('loss', 'mae') else 'larger'}"

    # Parts of a step

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context for mixed precision, which does nothing where everything is float32."""
        return torch.autocast(self.device, self.amp) if self.amp else nullcontext()

    def _make_optimizers(self) -> dict[str, Optimizer]:
        parts = self.task.parts()
        for name in self.config.learning_rates:
            if name not in parts:
                raise unknown("part of the task in fit.learning_rates", name, parts)
        return {name: make_optimizer(part, self.config, self._learning_rate(name)) for name, part in parts.items()}

    def _learning_rate(self, part: str) -> float:
        return self.config.learning_rates.get(part, self.config.learning_rate)

    def _rates(self) -> dict[str, float]:
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}

    def _clip(self, optimizer: Optimizer) -> None:
        config = self.config
        if config.clip_value or config.clip_norm or config.clip_global_norm:
            self.scaler.unscale_(optimizer)
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            clip_gradients(
                parameters, value=config.clip_value, norm=config.clip_norm, global_norm=config.clip_global_norm
            )

    def _note(self, loss: Tensor, metrics: Mapping[str, Tensor], size: int) -> None:
        """Adds the metrics of a step over `size` samples to the sums for the next row."""
        self._unchecked.append((self.steps + 1, loss.detach()))
        weights = self._sums.setdefault("weights", {})
        for name, value in metrics.items():
            key = f"train/{name}"
            self._sums[key] = self._sums.get(key, 0) + value.detach() * size
            weights[key] = weights.get(key, 0) + size

    def _check(self, now: bool = False) -> None:
        """Raises RlkitError if one of the losses since the last check is not a finite number.

        On a GPU this waits until there are UNCHECKED_STEPS of them, unless `now` is true.
        """
        if not self._unchecked or not (now or self.device == "cpu" or len(self._unchecked) >= UNCHECKED_STEPS):
            return
        steps, losses = zip(*self._unchecked, strict=True)
        self._unchecked = []
        for step, loss in zip(steps, torch.stack(losses).tolist(), strict=True):
            if not math.isfinite(loss):
                raise self._diverged("the loss", loss, step)

    def _diverged(self, what: str, value: float, step: int) -> RlkitError:
        advice = "a smaller fit.learning_rate, or fit.clip_global_norm=1, may help"
        if what == "the loss" and step <= 1:  # nothing had been learned
            advice = "the data's numbers are too large for 32 bits: scale=standardize, or smaller units, may help"
        return RlkitError(f"training diverged: {what} is {value} in step {step} (epoch {self.epoch + 1}); {advice}")

    def _checkpoint_due(self) -> bool:
        interval = self.config.checkpoint_interval
        interval = max(1, self.config.epochs // 10) if interval is None else interval
        return interval > 0 and self.epoch % interval == 0 and self.epoch < self.config.epochs


@contextmanager
def _one_line() -> Iterator[None]:
    """Turns torch's error for a batch that normalisation learns nothing from into one of a line."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1" not in str(error):
            raise
        raise RlkitError(
            "normalisation can't be trained on 1 value per channel: expected fit.batch_size of 2 or more, as many "
            "samples to learn from, and larger images where they have shrunk to a pixel"
        ) from error


def set_training(task: Task) -> None:
    """Sets training mode for all modules but frozen ones, whose batch normalisation thus keeps its statistics."""
    task.train()
    for module in task.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def channels_last(tensor: Tensor) -> Tensor:
    """Lays out images with the channels of a pixel side by side in memory, because convolutions are faster so.

    Tensors that are no images are returned as they are.
    """
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names start with the prefix, with the prefix removed from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _suffix(part: str) -> str:
    return "" if part == "model" else f"_{part}"


def _amp_dtype(amp: str, device: str) -> torch.dtype | None:
    """Returns the data type that mixed precision computes in; None means float32 throughout."""
    if amp == "auto":
        if device != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[amp]
