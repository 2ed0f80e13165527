"""Typed configuration of companion runs, with documentation and checks. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rlkit.errors import RlkitError, check_choice, check_fields, check_range

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "linear", "cosine", "step", "exponential", "one_cycle")
AMPS = ("auto", "off", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")

LARGEST_RATE = 1e6
"""Largest rate of learning or decay, above which steps leave the numbers that float32 has."""


@dataclass
class FitConfig:
    """Settings of the training loop: batches, optimiser, schedule, validation, checkpoints."""

    epochs: int = 10
    """Passes over the training samples."""
    batch_size: int = 128
    """Samples in each gradient step."""
    eval_batch_size: int = 500
    """Samples in each batch of validation and test."""
    drop_last: bool = False
    """Leave out an epoch's last batch where it is smaller than the others. Otherwise a last batch of one sample is
    joined to the batch before it, if the model has batch normalisation."""
    optimizer: str = "adam"
    """`sgd`, `adam`, `adamw` (weight decay apart from the gradient), or `rmsprop`."""
    learning_rate: float = 1e-3
    """The learning rate, which `schedule` scales; with `one_cycle`, the highest one."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Learning rates of single parts of a model, such as `{discriminator: 4e-4}`; the others have `learning_rate`."""
    momentum: float = 0.0
    """Momentum of SGD and RMSProp."""
    nesterov: bool = False
    """Use Nesterov's momentum with SGD."""
    beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay of the mean squared gradient, and RMSProp's."""
    schedule: str = "constant"
    """Schedule of the learning rate: `constant`; `linear` or `cosine` down to 0; `step`, multiplied by
    `schedule_factor` every `schedule_epochs`; `exponential`, multiplied by it every epoch; `one_cycle`, from a 25th up
    for 30 % of the run, then down to almost nothing."""
    schedule_factor: float = 0.1
    """Factor by which the schedules `step` and `exponential` multiply the learning rate."""
    schedule_epochs: int = 30
    """Epochs between two multiplications of the schedule `step`."""
    warmup_steps: int = 0
    """Gradient steps at the beginning of the run over which the learning rate grows linearly to its value."""
    weight_decay: float = 0.0
    """The optimiser's weight decay: weight_decay · w is added to the gradient; with `adamw`, it is applied apart."""
    l1: float = 0.0
    """Adds l1 Σ|w| to the loss."""
    l2: float = 0.0
    """Adds l2 Σw² to the loss."""
    penalized: str = "."
    """A regular expression: `l1` and `l2` are for the weights whose names it matches; biases are left out."""
    clip_value: float | None = None
    """Clip every entry of the gradient to ± this value; null: don't."""
    clip_norm: float | None = None
    """Clip the norm of each parameter tensor's gradient to this value; null: don't."""
    clip_global_norm: float | None = None
    """Clip the norm of the gradient of all parameters together to this value; null: don't."""
    monitor: str = "loss"
    """The validation metric by which the best model is chosen and training stops early, one of those that the task
    names with the direction that is better, such as `loss` or `accuracy`."""
    patience: int | None = None
    """Stop after this many epochs without an improvement; null: never."""
    min_delta: float = 0.0
    """The least change of the monitored metric that `patience` counts as an improvement."""
    restore_best: bool = True
    """Return the model that was best in validation instead of the last one; without validation, it is the last one."""
    validation_interval: int = 1
    """Epochs between validations."""
    amp: str = "auto"
    """Mixed precision: `bfloat16`, `float16` (with scaled losses) or `off`; `auto`: bfloat16 on a GPU that supports it,
    float16 on other GPUs, off on a CPU."""
    log_interval: int | None = None
    """Gradient steps between rows of metrics.csv, beside the row after each epoch; null: a row per epoch."""
    checkpoint_interval: int | None = None
    """Epochs between checkpoints; null: a tenth of the run; 0: only one at the end."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        counts = ["epochs", "batch_size", "eval_batch_size", "schedule_epochs", "patience", "validation_interval"]
        check_fields(
            self,
            "fit",
            counts=[*counts, "log_interval"],
            positive=["learning_rate", "clip_value", "clip_norm", "clip_global_norm", "schedule_factor"],
            not_negative=["warmup_steps", "weight_decay", "l1", "l2", "min_delta", "checkpoint_interval"],
            shares=["momentum", "beta1", "beta2"],
        )
        check_choice("fit.optimizer", self.optimizer, OPTIMIZERS)
        check_choice("fit.schedule", self.schedule, SCHEDULES)
        check_choice("fit.amp", self.amp, AMPS)
        for name, rate in self.learning_rates.items():
            check_range(f"fit.learning_rates.{name}", rate, 0, LARGEST_RATE, exclusive=True)
        for name in ("learning_rate", "weight_decay", "l1", "l2"):
            check_range(f"fit.{name}", getattr(self, name), high=LARGEST_RATE)
        if self.nesterov and not self.momentum:
            raise RlkitError("fit.nesterov=true needs fit.momentum to be greater than 0")
        try:
            re.compile(self.penalized)
        except re.error as error:
            raise RlkitError(f"fit.penalized={self.penalized}: not a regular expression: {error}") from error


@dataclass
class PerceptionConfig:
    """Settings of one companion run."""

    recipe: str = "none"
    """Name of the recipe, which the recipe itself sets."""
    data: Any = None
    """The data set's own fields."""
    model: Any = None
    """The network's own fields."""
    task: Any = None
    """The task's own fields."""
    fit: FitConfig = field(default_factory=FitConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    """Loggers beside the CSV file, by name; `logger=[tensorboard,wandb]` on the command line."""
    own_classes: dict[str, str] = field(default_factory=dict)
    """The classes of your own, `package.module:Class`, that `logger=[…]` chose: it sets this."""
    data_root: str | None = None
    """The folder with the data sets, `<data_root>/<name>/…`; null: the folder named by the variable RLKIT_DATA."""
    seed: int = 0
    """Seed of the initial weights, the order of the samples, dropout and augmentation."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is a GPU."""
    scale: str = "auto"
    """Scaling of images and columns: `unit` keeps pixels from 0 to 1, `signed` maps 0 to 1 onto −1 to 1, `standardize`
    uses the mean and standard deviation of the training samples, `none` changes nothing; `auto` standardises wherever
    the data set has these statistics."""
    resize: int | None = None
    """Enlarge or shrink images to this height and width in pixels; null: leave them as they are."""
    augment: dict[str, float] = field(default_factory=dict)
    """Random changes to training images, each with its strength: `{crop: 4, flip: 0.5}`; also flip_vertical, rotate,
    rotate90, erase, color, noise."""
    init_from: str | None = None
    """Folder of a companion run: start with the weights of its network, all but the head's; null: random weights."""
    freeze: bool = False
    """Train nothing but the head; needs `init_from`."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_choice("device", self.device, DEVICES)
        check_range("resize", self.resize, 1)
        if self.freeze and self.init_from is None:
            raise RlkitError("freeze=true needs init_from=RUN: a network of random weights would stay as it is")
        self.fit.validate()
